// KeeperMessage: what travels on the keeper's two kinds of socket (Unix seqpacket): its stepper's socketpair, and the
// filesystem socket where attached ranks fetch descriptors. One message is 128 bytes, plus at most one descriptor (SCM_RIGHTS).
//
//   stepper -> keeper  kKeep (slab + fd) | kDrop (slab) | kGrant (session -> slab; repeated) | kRevoke (session) | kReady (stepper serves) | kStop
//   keeper -> stepper  kSlab (slab + fd; all kept slabs, then kEnd) at start | kRankGone (session) | kDrain | kFinish
//   rank   -> keeper   kFetch (session)
//   keeper -> rank     kSlab (slab + fd; one for each grant), then kEnd; or kDenied. The connection then stays open: its end
//                      tells the keeper that the rank died, and the rank that the keeper died.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muond {

enum class KeeperVerb : uint32_t {
  kKeep = 1,
  kDrop = 2,
  kGrant = 3,
  kRevoke = 4,
  kReady = 5,
  kStop = 6,
  kSlab = 7,
  kEnd = 8,
  kRankGone = 9,
  kDrain = 10,
  kFetch = 11,
  kDenied = 12,
  kFinish = 13,  // a drain that waits for no job: what is being answered is answered, then kStop
};

enum class SlabKind : uint32_t {
  kCatalog = 1,    // daemon only: what a successor must know of the job (serialised)
  kJournal = 2,    // daemon only
  kPage = 3,       // the job page
  kGradient = 4,   // of one rank
  kParameter = 5,  // of one rank
  kState = 6,      // daemon only: slots and places of one device
  kExchange = 7,   // daemon only: what the job's other daemons put into (server/peer)
};

inline constexpr uint32_t kKeeperMagic = 0x4b4e554d;  // "MUNK"

struct KeeperMessage {
  uint32_t magic = kKeeperMagic;
  KeeperVerb verb = KeeperVerb::kEnd;
  uint64_t slab = 0;  // minted by the stepper, random, never 0
  uint64_t size_bytes = 0;
  uint64_t job = 0;
  uint64_t session = 0;
  SlabKind kind = SlabKind::kCatalog;
  uint32_t rank = 0;
  uint32_t device = 0;  // ordinal; kHostDevice for host pages
  uint32_t reserved = 0;
  std::array<char, 72> label{};
};
static_assert(sizeof(KeeperMessage) == 128);

inline constexpr uint32_t kHostDevice = 0xffffffff;
inline constexpr size_t kKeeperMessageBytes = 128;

// The bytes of a message are those of the struct: sender and receiver share one machine.
std::span<const std::byte> AsBytes(const KeeperMessage& message);

// INVALID_ARGUMENT for what is not exactly one valid message: length, magic, verb, kind, a slab or session of 0
// where the verb names one, a size of 0 or beyond kSlabBytesMax where it carries one, a label without its end.
absl::StatusOr<KeeperMessage> DecodeKeeperMessage(std::span<const std::byte> bytes);

bool CarriesDescriptor(
    KeeperVerb verb);  // kKeep and kSlab come with exactly one, the others with none

void SetLabel(KeeperMessage& message, std::string_view label);  // cut at 71 bytes
std::string_view LabelOf(const KeeperMessage& message);         // borrowed from the message
std::string_view NameOf(KeeperVerb verb);

}  // namespace muond
