// The UCX carrier: frames as active messages, shards as one-sided puts with flush, between nodes.
// UCX's own types stay in this folder.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/carrier/liveness.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

struct UcxOptions {
  std::string
      listen;  // "10.0.0.1:0", "[fd00::1]:7470"; port 0: any; empty: this carrier only connects
  std::string transports;  // as in UCX_TLS; empty: as ucx_worker.h says
  LivenessOptions
      liveness;  // a stopped process, a cut network: gone after silence_ns_max and one heartbeat
  int64_t join_ns_max =
      5'000'000'000;  // from Connect to the other end's answer; from a connection to its key
  int64_t leave_ns_max =
      500'000'000;  // how long Close and the destructor wait for the other end to see the last
                    // frames; the destructor blocks as long, when the peer does not answer
  ShardLimits limits;
};

// UNAVAILABLE with the address when it cannot be listened on.
absl::StatusOr<std::unique_ptr<ShardCarrier>> CreateUcxCarrier(const UcxOptions& options);

}  // namespace muond
