#include "proto/stubs/endpoint.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

constexpr std::string_view kUnix = "unix:";

std::string_view Shown(std::string_view endpoint) { return endpoint.substr(0, 200); }

bool ParsesAsPort(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

bool IsUnixEndpoint(std::string_view endpoint) {
  return endpoint.starts_with(kUnix) || endpoint.starts_with("/");
}

std::string_view SocketPathOf(std::string_view endpoint) {
  if (!IsUnixEndpoint(endpoint)) return {};
  std::string_view path = endpoint;
  if (path.starts_with(kUnix)) path.remove_prefix(kUnix.size());
  if (path.starts_with("//")) path.remove_prefix(2);  // unix:///path is unix:/path
  return path;
}

absl::StatusOr<std::string> CanonicalEndpoint(std::string_view endpoint) {
  if (endpoint.empty())
    return absl::InvalidArgumentError("the endpoint is empty; give unix:/path or host:port");
  if (IsUnixEndpoint(endpoint)) {
    const std::string_view path = SocketPathOf(endpoint);
    if (!path.starts_with("/")) {
      return absl::InvalidArgumentError(
          absl::StrFormat("endpoint '%s': a socket needs an absolute path", Shown(endpoint)));
    }
    if (path.size() > static_cast<size_t>(kSocketPathBytesMax)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("endpoint '%s...': its socket path has %d bytes, the system allows %d",
                          path.substr(0, 40), path.size(), kSocketPathBytesMax));
    }
    return std::string(kUnix) + std::string(path);
  }
  if (endpoint.starts_with("unix-abstract:")) {
    return absl::InvalidArgumentError("abstract sockets have no permissions; give unix:/path");
  }
  const size_t colon = endpoint.rfind(':');
  const bool has_port =
      colon != std::string_view::npos && colon > 0 && ParsesAsPort(endpoint.substr(colon + 1));
  if (!has_port || endpoint.size() > static_cast<size_t>(kTextBytesMax)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("endpoint '%s' is neither unix:/path nor host:port", Shown(endpoint)));
  }
  return std::string(endpoint);
}

absl::StatusOr<std::vector<std::string>> SplitEndpoints(std::string_view list) {
  std::vector<std::string> endpoints;
  for (size_t at = 0; at <= list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    absl::StatusOr<std::string> endpoint = CanonicalEndpoint(list.substr(at, end - at));
    if (!endpoint.ok()) return endpoint.status();
    endpoints.push_back(*std::move(endpoint));
    at = end + 1;
  }
  return endpoints;
}

}  // namespace muond
