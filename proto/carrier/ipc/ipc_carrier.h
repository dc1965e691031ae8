// The ipc carrier: frames between processes of one node, one Unix seqpacket message each.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/carrier/carrier.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

// Accepts peers on a listening seqpacket socket (the keeper makes it; it outlives this process).
absl::StatusOr<std::unique_ptr<Carrier>> ListenIpc(UniqueFd listening_socket);

struct ConnectedCarrier {
  std::unique_ptr<Carrier> carrier;
  PeerId peer = kNoPeer;
};
// UNAVAILABLE with the path when nobody listens there.
absl::StatusOr<ConnectedCarrier> ConnectIpc(const std::string& path);

}  // namespace muond
