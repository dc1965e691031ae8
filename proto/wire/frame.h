// Frame: the 64-byte message of the step path. Little-endian, byte for byte as in proto/wire/README.md.
// A frame is a doorbell: the truth lies in the job page and the journal. Frames may be lost and repeated.
// Threads: plain values.   Errors: Decode refuses what is not exactly one valid frame, with the numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace muond {

inline constexpr size_t kFrameBytes = 64;
inline constexpr uint32_t kFrameMagic = 0x444e554d;  // "MUND" in memory
inline constexpr uint8_t kFrameVersion = 1;

enum class FrameType : uint8_t {
  kHello = 1,  // rank -> daemon, first on a connection: session; step = last step the rank finished
  kWelcome = 2,  // daemon -> rank: step = newest step with a verdict
  kReady = 3,    // rank -> daemon: gradients of `bucket` for (step, attempt) are in the slab
  kStep = 4,     // rank -> daemon: the sheet of `step` is filled
  kDone =
      5,  // daemon -> rank: parameters of `bucket` for `step` are in the slab (bucket = kAllBuckets: the step is over)
  kVoid =
      6,  // daemon -> rank: `step` changed nothing; value = VoidReason, bucket = the tensor it names or kNone
  kRefused =
      7,  // daemon -> rank: the announcement was not taken; value = RefusedReason; step, epoch = what the daemon expects
  kPing = 8,  // either way: value = cookie
  kPong = 9,  // the same cookie
  kBye = 10,  // rank -> daemon: nothing more comes
  // Between the daemons of one job, over their link (server/README.md):
  kLink =
      11,  // eight bytes of the sender's region key: bucket = bytes of the key, attempt = which eight, value = they
  kLinked = 12,  // the key is whole here
  kVote = 13,    // member -> chief: sheets and measurements of `step` are in your exchange slab
  kVerdict =
      14,  // chief -> member: attempt 1 GO, value = bits of the clip factor; 2 VOID, value and bucket as kVoid
  kArrived =
      15,  // owner -> member: the parameter of item `bucket` for `step` is in your exchange slab
  kTaken = 16,  // member -> owner: and it is with its ranks
  kLost = 17,   // member -> chief: rank `bucket` is lost
  kLeft = 18,   // member -> members: its ranks have left, and it owes nothing
};

enum class VoidReason : uint64_t {
  kNonFinite = 1,  // `bucket` holds the index of the first tensor with NaN or Inf
  kFoundInf = 2,   // the sheet said so (loss scaling)
  kSheetsDiffer =
      3,  // ranks disagree; the text comes by GetStatus and the log, `bucket` holds the field's code
  kReplicasDiffer = 4,  // reduced replicas have different digests; `bucket` holds the tensor
  kRankLost = 5,        // a rank died before the verdict
  kNotWhole = 6,        // present on some holders only
};
enum class RefusedReason : uint64_t {
  kStaleEpoch = 1,
  kStaleIncarnation = 2,
  kStepGap = 3,  // step > expected
  kUnknownSession = 4,
  kBadBucket = 5,
  kDraining = 6,
};

inline constexpr uint32_t kAllBuckets = 0xffffffff;
inline constexpr uint32_t kNone = 0xffffffff;

struct Frame {
  FrameType type = FrameType::kPing;
  uint64_t job = 0;
  uint64_t session = 0;
  uint32_t rank = 0;
  uint32_t incarnation = 0;
  uint64_t epoch = 0;
  uint64_t step = 0;
  uint32_t bucket = kNone;
  uint32_t attempt = 0;
  uint64_t value = 0;
};

// Bytes: 0 magic u32 | 4 version u8 | 5 type u8 | 6 length u16 (64) | 8 job u64 | 16 session u64 | 24 rank u32 |
// 28 incarnation u32 | 32 step u64 | 40 epoch u32 | 44 bucket u32 | 48 value u64 | 56 attempt u32 | 60 crc32c u32 of bytes 0..59.
// REQUIRES: epoch <= kEpochMax (proto/types/limits.h); the wire has 32 bits for it.
std::array<std::byte, kFrameBytes> Encode(const Frame& frame);
absl::StatusOr<Frame> Decode(std::span<const std::byte> bytes);

std::string_view NameOf(FrameType type);  // "READY": for log lines

}  // namespace muond
