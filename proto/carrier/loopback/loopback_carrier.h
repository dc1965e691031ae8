// The loopback carrier: frames between parts of one process, for tests. The two ends may live on
// different threads.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "proto/carrier/carrier.h"

namespace muond {

struct LoopbackHub;  // where a listening carrier can be reached

// The hub and the listening end. The hub may outlive the carrier: connecting then is UNAVAILABLE.
struct LoopbackListener {
  std::shared_ptr<LoopbackHub> hub;
  std::unique_ptr<Carrier> carrier;
};
absl::StatusOr<LoopbackListener> ListenLoopback();

struct LoopbackConnection {
  std::unique_ptr<Carrier> carrier;
  PeerId peer = kNoPeer;
};
absl::StatusOr<LoopbackConnection> ConnectLoopback(const std::shared_ptr<LoopbackHub>& hub);

}  // namespace muond
