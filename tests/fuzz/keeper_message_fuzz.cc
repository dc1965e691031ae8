// Any bytes: DecodeKeeperMessage either refuses them, or its answer is those bytes and its label
// ends inside it.
#include <algorithm>
#include <cstdlib>
#include <span>

#include "proto/wire/keeper_message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span<const uint8_t>(data, size));
  const absl::StatusOr<muond::KeeperMessage> message = muond::DecodeKeeperMessage(bytes);
  if (!message.ok()) return message.status().message().empty() ? (std::abort(), 0) : 0;
  const auto again = muond::AsBytes(*message);
  if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) std::abort();
  if (muond::LabelOf(*message).size() >= message->label.size()) std::abort();
  return 0;
}
