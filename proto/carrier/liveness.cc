#include "proto/carrier/liveness.h"

#include "absl/strings/str_cat.h"

namespace muond {

absl::Status CheckLiveness(const LivenessOptions& options) {
  if (options.heartbeat_ns > 0 && options.heartbeat_ns <= options.silence_ns_max / 2)
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a heartbeat every ", options.heartbeat_ns, " ns and at most ", options.silence_ns_max,
      " ns of silence: two heartbeats must fit into the silence"));
}

}  // namespace muond
