// Engine: the daemon's arithmetic called in this process, on one CPU device: measure, step into
// staged places, copy out. The same verbs, in the same order and grouping as a daemon with one
// device; no sockets, no cells, no other process.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/optim/muon.h"
#include "kernels/runtime/backend.h"
#include "proto/types/manifest.h"

namespace muond {

class Engine {
 public:
  // One tensor of the manifest: its memory is the caller's.
  struct Memory {
    float* parameter;
    const float* gradient;
  };
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Manifest& manifest,
                                                        const std::vector<Memory>& memory);
  // One whole step; returns when the parameters are new.
  absl::Status Step();

 private:
  Engine() = default;
  absl::StatusOr<float*> Allocate(int64_t elements);

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  void* workspace_ = nullptr;
  uint64_t workspace_bytes_ = 0;
  CoefficientTable table_;
  std::vector<MuonScalars> muon_scalars_;
  AdamWScalars adamw_scalars_;
  std::vector<Measurement> measurements_;
  std::vector<MeasureTask> measures_;
  std::vector<MuonItem> muon_;
  std::vector<AdamWTask> adamw_;
  std::vector<ScatterTask> scatters_;
};

}  // namespace muond
