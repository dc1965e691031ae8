#include "proto/wire/keeper_message.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

bool NamesSlab(KeeperVerb verb) {
  return verb == KeeperVerb::kKeep || verb == KeeperVerb::kDrop || verb == KeeperVerb::kGrant ||
         verb == KeeperVerb::kSlab;
}
bool NamesSession(KeeperVerb verb) {
  return verb == KeeperVerb::kGrant || verb == KeeperVerb::kRevoke ||
         verb == KeeperVerb::kRankGone || verb == KeeperVerb::kFetch;
}

}  // namespace

std::span<const std::byte> AsBytes(const KeeperMessage& message) {
  return std::as_bytes(std::span<const KeeperMessage, 1>(&message, 1));
}

bool CarriesDescriptor(KeeperVerb verb) {
  return verb == KeeperVerb::kKeep || verb == KeeperVerb::kSlab;
}

absl::StatusOr<KeeperMessage> DecodeKeeperMessage(std::span<const std::byte> bytes) {
  if (bytes.size() != kKeeperMessageBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a keeper message has %u bytes, this one has %u", kKeeperMessageBytes, bytes.size()));
  }
  KeeperMessage message;
  std::memcpy(&message, bytes.data(), kKeeperMessageBytes);
  if (message.magic != kKeeperMagic) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "keeper message starts with %#010x, not the magic %#010x", message.magic, kKeeperMagic));
  }
  const auto verb = static_cast<uint32_t>(message.verb);
  if (verb < static_cast<uint32_t>(KeeperVerb::kKeep) ||
      verb > static_cast<uint32_t>(KeeperVerb::kFinish)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keeper message has verb %u, known are 1 to %u", verb,
                        static_cast<uint32_t>(KeeperVerb::kFinish)));
  }
  const auto kind = static_cast<uint32_t>(message.kind);
  if (kind < static_cast<uint32_t>(SlabKind::kCatalog) ||
      kind > static_cast<uint32_t>(SlabKind::kExchange)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keeper message has slab kind %u, known are 1 to %u", kind,
                        static_cast<uint32_t>(SlabKind::kExchange)));
  }
  if (NamesSlab(message.verb) && message.slab == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keeper message %s names slab 0", NameOf(message.verb)));
  }
  if (NamesSession(message.verb) && message.session == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keeper message %s names session 0", NameOf(message.verb)));
  }
  if (CarriesDescriptor(message.verb) &&
      (message.size_bytes == 0 || message.size_bytes > kSlabBytesMax)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("keeper message %s has a slab of %u bytes, allowed are 1 to %u",
                        NameOf(message.verb), message.size_bytes, kSlabBytesMax));
  }
  if (std::find(message.label.begin(), message.label.end(), '\0') == message.label.end()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "keeper message has a label without an end within its %u bytes", message.label.size()));
  }
  return message;
}

void SetLabel(KeeperMessage& message, std::string_view label) {
  message.label.fill('\0');
  label.copy(message.label.data(), message.label.size() - 1);
}

std::string_view LabelOf(const KeeperMessage& message) {
  const auto end = std::find(message.label.begin(), message.label.end(), '\0');
  return std::string_view(message.label.data(), static_cast<size_t>(end - message.label.begin()));
}

std::string_view NameOf(KeeperVerb verb) {
  switch (verb) {
    case KeeperVerb::kKeep:
      return "KEEP";
    case KeeperVerb::kDrop:
      return "DROP";
    case KeeperVerb::kGrant:
      return "GRANT";
    case KeeperVerb::kRevoke:
      return "REVOKE";
    case KeeperVerb::kReady:
      return "READY";
    case KeeperVerb::kStop:
      return "STOP";
    case KeeperVerb::kSlab:
      return "SLAB";
    case KeeperVerb::kEnd:
      return "END";
    case KeeperVerb::kRankGone:
      return "RANK_GONE";
    case KeeperVerb::kDrain:
      return "DRAIN";
    case KeeperVerb::kFetch:
      return "FETCH";
    case KeeperVerb::kDenied:
      return "DENIED";
    case KeeperVerb::kFinish:
      return "FINISH";
  }
  return "unknown";
}

}  // namespace muond
