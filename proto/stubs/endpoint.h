// Endpoints: where a daemon or a coordinator listens. "unix:/path/to/socket" (or the absolute path alone), or
// "host:port". Abstract Unix sockets are refused: they have no permissions.
// Threads: pure functions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace muond {

// The endpoint in the form that gRPC takes. INVALID_ARGUMENT: empty, relative or abstract path, a path longer than
// kSocketPathBytesMax (both counts in the text), a port that is none.
absl::StatusOr<std::string> CanonicalEndpoint(std::string_view endpoint);

// Canonical endpoints from a list with commas between. INVALID_ARGUMENT as CanonicalEndpoint; never empty.
absl::StatusOr<std::vector<std::string>> SplitEndpoints(std::string_view list);

bool IsUnixEndpoint(std::string_view endpoint);            // "unix:/…" or "/…"
std::string_view SocketPathOf(std::string_view endpoint);  // "" when it is no Unix endpoint

}  // namespace muond
