// MuonPlan: the Muon step of one list of parameters, prepared once and enqueued each step with that step's gradients and
// scalars. On CUDA a step is three launches: the gradients' addresses, the scalars, and a graph with everything else, which
// reads both from the workspace. Nothing is allocated or compiled after the first step.
// Threads: one at a time.   Lifetime: engine, workspace, parameters and momenta outlive the plan.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/capi/engine.h"

namespace muond {

struct MuonPlanItem {
  Matrix gradient;         // data: offset in bytes from the address that each step gives
  uint32_t gradient_from;  // which of those addresses
  Matrix parameter;
  float* momentum;
};

class MuonPlan {
 public:
  // Bytes for these items within `limit_bytes` where rounds can achieve it.
  static uint64_t WorkspaceBytes(Engine& engine, const CoefficientTable& table,
                                 absl::Span<const MuonPlanItem> items, size_t addresses,
                                 uint64_t limit_bytes);
  // INVALID_ARGUMENT when the workspace is too small for the largest matrix, with both sizes.
  static absl::StatusOr<std::unique_ptr<MuonPlan>> Create(Engine& engine, CoefficientTable table,
                                                          absl::Span<const MuonPlanItem> items,
                                                          size_t addresses, void* workspace,
                                                          uint64_t bytes);

  // `gradients`: as many addresses as the plan was made for, each a multiple of 16 (INVALID_ARGUMENT).
  absl::Status Step(void* cuda_stream, const SharedScalars& scalars, UpdateScale scale,
                    absl::Span<const void* const> gradients);

 private:
  struct Layout;  // of the workspace
  MuonPlan(Engine& engine, CoefficientTable table, size_t addresses)
      : engine_(engine), table_(std::move(table)), addresses_(addresses) {}

  Engine& engine_;
  const CoefficientTable table_;
  const size_t addresses_;
  std::vector<MuonItem> items_;
  const void** gradients_ = nullptr;  // in the workspace
  double* update_scales_ = nullptr;
  MuonScalars* scalars_ = nullptr;
  void* rest_ = nullptr;
  uint64_t rest_bytes_ = 0;
  UpdateScale scale_{};  // of update_scales_; none before the first step
  std::unique_ptr<Recording> recording_;
};

}  // namespace muond
