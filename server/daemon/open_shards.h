// The one place that chooses a carrier to the other daemons of a job.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "proto/carrier/shard_carrier.h"
#include "server/daemon/config.h"

namespace muond {

// Null when the configuration says off. Port 0 takes any free port once: every successor takes the same, since the
// other daemons know it (a file in the runtime directory tells it). UNIMPLEMENTED when this build has no such carrier.
absl::StatusOr<std::unique_ptr<ShardCarrier>> OpenShards(const Config& config);

}  // namespace muond
