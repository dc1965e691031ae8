// Addresses of this carrier: "10.0.0.1:7470", "[fd00::1]:7470". Numbers only: a name would have to be looked up, and
// looking up blocks.
#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace muond {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// INVALID_ARGUMENT, with the text, for anything else. Port 0 only where `any_port`.
absl::StatusOr<SocketAddress> ParseSocketAddress(std::string_view text, bool any_port);
// REQUIRES: IPv4 or IPv6.
std::string TextOf(const sockaddr_storage& address);

}  // namespace muond
