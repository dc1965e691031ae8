// Unix seqpacket sockets in the filesystem: listen, connect, accept, who is there.
// Every descriptor made here is close-on-exec. Errors name the path, the numbers and errno's text.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/carrier/carrier.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

absl::Status ErrnoToStatus(int error, const std::string& what);

// INVALID_ARGUMENT with both lengths when the path does not fit into sun_path.
absl::Status CheckSocketPath(const std::string& path);
// Replaces nothing: ALREADY_EXISTS when the path is there. The socket file has mode 0600.
absl::StatusOr<UniqueFd> ListenSeqpacket(const std::string& path, int backlog);
// Waits only where the listener's backlog is full. UNAVAILABLE when nobody listens.
absl::StatusOr<UniqueFd> ConnectSeqpacket(const std::string& path);
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SeqpacketPair();
// The peer of a connected socket, as it was when it connected (or listened).
absl::StatusOr<PeerCredentials> PeerOf(int socket);
absl::Status SetNonBlocking(int fd);

}  // namespace muond
