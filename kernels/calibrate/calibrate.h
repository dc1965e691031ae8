// Calibrate: measures a device's rates for the planner (optim/cost.h): bytes moved by the element-wise passes, and
// Newton-Schulz FLOP per second by the short side of the matrices, grouped as the daemon runs them.
// Random data, medians, each point warmed up. Takes `seconds` in all, about; a GPU needs no more than 30.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/optim/cost.h"
#include "kernels/runtime/backend.h"

namespace muond {

struct CalibrateOptions {
  double seconds = 30;
  std::vector<int64_t> sides;  // empty: what suits the device's kind
  double aspect =
      2.75;  // long side over short side: between attention (1 to 4) and feed-forward (2.7 to 5)
  uint64_t workspace_bytes = 2ull << 30;
};

// `progress` gets one line a point; may be null. RESOURCE_EXHAUSTED when the device is too full to measure on.
absl::StatusOr<CostModel> Calibrate(Device& device, Ops& ops, const CalibrateOptions& options,
                                    std::ostream* progress);

}  // namespace muond
