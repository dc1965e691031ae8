// Any bytes: Decode either refuses them, or encoding its answer gives the same bytes back.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "proto/wire/frame.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span<const uint8_t>(data, size));
  const absl::StatusOr<muond::Frame> frame = muond::Decode(bytes);
  if (!frame.ok()) return frame.status().message().empty() ? (std::abort(), 0) : 0;
  const auto again = muond::Encode(*frame);
  if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
  return 0;
}
