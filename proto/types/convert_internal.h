// What the convert*.cc files share. Not for others.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace muond::convert {

inline absl::Status CheckCount(std::string_view what, int64_t count, int64_t limit) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s: %d, the limit is %d", what, count, limit));
}

// A number from a peer as an enum of one byte: what does not fit becomes 0, which no Validate
// accepts.
template <typename Enum>
Enum EnumWithin(int number) {
  return number >= 0 && number <= 255 ? static_cast<Enum>(number) : static_cast<Enum>(0);
}

}  // namespace muond::convert
