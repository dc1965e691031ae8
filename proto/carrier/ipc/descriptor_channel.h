// DescriptorChannel: KeeperMessages with at most one file descriptor each, over a connected
// seqpacket socket. Threads: one at a time.   Lifetime: owns the socket. Errors:  a message of a
// wrong size, magic or verb, or with more than one descriptor, is INVALID_ARGUMENT (its descriptors
//          are closed); a closed peer is UNAVAILABLE; nothing to read or no room (non-blocking) is
//          RESOURCE_EXHAUSTED never: those are the empty optional and `false`.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "proto/carrier/ipc/unique_fd.h"
#include "proto/wire/keeper_message.h"

namespace muond {

struct DescriptorMessage {
  KeeperMessage message;
  UniqueFd descriptor;  // invalid when none came
};

class DescriptorChannel {
 public:
  explicit DescriptorChannel(UniqueFd socket) : socket_(std::move(socket)) {}
  int socket() const { return socket_.get(); }

  // Never block. TrySend: false when there is no room now; `descriptor` (-1: none) is borrowed, the
  // receiver gets its own.
  absl::StatusOr<bool> TrySend(const KeeperMessage& message, int descriptor);
  absl::StatusOr<std::optional<DescriptorMessage>> TryReceive();
  // Block: Send until there is room; Receive until a message comes or `timeout_ms` passes
  // (DEADLINE_EXCEEDED; -1: no limit).
  absl::Status Send(const KeeperMessage& message, int descriptor);
  absl::StatusOr<DescriptorMessage> Receive(int timeout_ms);

 private:
  UniqueFd socket_;
};

}  // namespace muond
