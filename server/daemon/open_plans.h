// The one place that chooses a coordinator: the embedded one, or the one that the configuration names.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "server/daemon/config.h"
#include "server/daemon/plans.h"

namespace muond {

// `backend` and `metrics` outlive the result. `jobs`: those of a dead stepper, whose state the keeper holds.
absl::StatusOr<std::unique_ptr<Plans>> OpenPlans(const Config& config, const Backend& backend,
                                                 Metrics* metrics, std::vector<uint64_t> jobs);

}  // namespace muond
