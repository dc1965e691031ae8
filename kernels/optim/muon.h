// Muon for a group of matrices, and AdamW for a group of chunks: written once over Ops.
//
// Nothing is updated in place: the new state goes to *_out (a spare slot), the new parameter to a staged place,
// and old state, old parameter and gradient stay as they are. Formulas: muond's README in kernels/optim.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/ops.h"
#include "kernels/optim/newton_schulz.h"

namespace muond {

// The factor between lr and the orthogonalised update of an m x n parameter. Names carry the formula.
enum class UpdateScale : uint8_t {
  kOriginal = 1,       // sqrt(max(1, m/n))
  kMatchRmsAdamW = 2,  // 0.2 sqrt(max(m, n))
  kSqrtRatio = 3,      // sqrt(m/n)
  kSqrtMax = 4,        // sqrt(max(m, n))
  kNone = 5,           // 1
};
double UpdateScaleFactor(UpdateScale scale, int64_t rows, int64_t cols);

struct MuonItem {
  int64_t rows = 0, cols = 0;
  std::vector<Block> gradient;
  std::vector<Block> parameter_in;
  Matrix parameter_out;                // dense [rows, cols], the parameter's dtype
  const float* momentum_in = nullptr;  // dense [rows, cols]
  float* momentum_out = nullptr;
  const MuonScalars* scalars = nullptr;     // read when it runs
  const CoefficientTable* table = nullptr;  // lives until the stream has passed
};

// Bytes of workspace that MuonStep needs for these shapes at once. At most `limit_bytes` is asked for where
// splitting into rounds can achieve it; one matrix alone may need more.
uint64_t MuonWorkspaceBytes(const Ops& ops, absl::Span<const MuonItem> items, uint64_t limit_bytes);

// Enqueues the whole step of `items`: direction, Newton-Schulz, apply. `workspace` must stay until the stream
// has passed. INVALID_ARGUMENT when the workspace is too small for the largest matrix (both sizes in the text).
absl::Status MuonStep(Ops& ops, Stream& stream, absl::Span<const MuonItem> items, void* workspace,
                      uint64_t workspace_bytes);

}  // namespace muond
