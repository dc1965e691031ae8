// The protocol's version. Peers of one major version understand each other: unknown fields are
// skipped, absent ones have their default. The minor version says what may be asked for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace muond {

inline constexpr int32_t kProtocolMajor = 1;
inline constexpr int32_t kProtocolMinor = 0;
inline constexpr std::string_view kBuild = "0.1.0";

struct ProtocolVersion {
  int32_t major_number = kProtocolMajor;
  int32_t minor_number = kProtocolMinor;
  std::string build = std::string(kBuild);
};

// FAILED_PRECONDITION naming both versions when the majors differ. `peer` is a noun for the text:
// "the daemon".
absl::Status CheckVersion(const ProtocolVersion& theirs, std::string_view peer,
                          const ProtocolVersion& mine = {});

}  // namespace muond
