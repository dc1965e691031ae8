#include "proto/carrier/ucx/socket_address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace muond {

absl::StatusOr<SocketAddress> ParseSocketAddress(std::string_view text, bool any_port) {
  const absl::Status refused = absl::InvalidArgumentError(absl::StrCat(
      "'", std::string(text), "' is no address: \"10.0.0.1:7470\" or \"[fd00::1]:7470\""));
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return refused;
  std::string host(text.substr(0, colon));
  uint32_t port = 0;
  if (!absl::SimpleAtoi(std::string(text.substr(colon + 1)), &port) || port > 65535 ||
      (port == 0 && !any_port)) {
    return refused;
  }
  SocketAddress address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(static_cast<uint16_t>(port));
    if (::inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) != 1) return refused;
    std::memcpy(&address.storage, &six, sizeof(six));
    address.length = sizeof(six);
    return address;
  }
  sockaddr_in four{};
  four.sin_family = AF_INET;
  four.sin_port = htons(static_cast<uint16_t>(port));
  if (::inet_pton(AF_INET, host.c_str(), &four.sin_addr) != 1) return refused;
  std::memcpy(&address.storage, &four, sizeof(four));
  address.length = sizeof(four);
  return address;
}

std::string TextOf(const sockaddr_storage& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (address.ss_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &six.sin6_addr, text.data(), text.size());
    return absl::StrCat("[", text.data(), "]:", ntohs(six.sin6_port));
  }
  const auto& four = reinterpret_cast<const sockaddr_in&>(address);
  ::inet_ntop(AF_INET, &four.sin_addr, text.data(), text.size());
  return absl::StrCat(text.data(), ":", ntohs(four.sin_port));
}

}  // namespace muond
