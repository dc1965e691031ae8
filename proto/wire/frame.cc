#include "proto/wire/frame.h"

#include <cstring>

#include "absl/strings/str_format.h"
#include "proto/wire/crc32c.h"

namespace muond {
namespace {

// Little-endian whatever the host is.
template <typename T>
void Put(std::array<std::byte, kFrameBytes>& out, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i)
    out[at + i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
}
template <typename T>
T Get(std::span<const std::byte> in, size_t at) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= static_cast<T>(static_cast<T>(in[at + i]) << (8 * i));
  return value;
}

constexpr size_t kMagicAt = 0, kVersionAt = 4, kTypeAt = 5, kLengthAt = 6, kJobAt = 8,
                 kSessionAt = 16, kRankAt = 24, kIncarnationAt = 28, kStepAt = 32, kEpochAt = 40,
                 kBucketAt = 44, kValueAt = 48, kAttemptAt = 56, kCrcAt = 60;

absl::Status CheckReason(FrameType type, uint64_t value) {
  if (type == FrameType::kVoid &&
      (value < 1 || value > static_cast<uint64_t>(VoidReason::kNotWhole))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("VOID frame has reason %u, known are 1 to %u", value,
                        static_cast<uint64_t>(VoidReason::kNotWhole)));
  }
  if (type == FrameType::kRefused &&
      (value < 1 || value > static_cast<uint64_t>(RefusedReason::kDraining))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("REFUSED frame has reason %u, known are 1 to %u", value,
                        static_cast<uint64_t>(RefusedReason::kDraining)));
  }
  return absl::OkStatus();
}

}  // namespace

std::array<std::byte, kFrameBytes> Encode(const Frame& frame) {
  std::array<std::byte, kFrameBytes> out{};
  Put(out, kMagicAt, kFrameMagic);
  Put(out, kVersionAt, kFrameVersion);
  Put(out, kTypeAt, static_cast<uint8_t>(frame.type));
  Put(out, kLengthAt, static_cast<uint16_t>(kFrameBytes));
  Put(out, kJobAt, frame.job);
  Put(out, kSessionAt, frame.session);
  Put(out, kRankAt, frame.rank);
  Put(out, kIncarnationAt, frame.incarnation);
  Put(out, kStepAt, frame.step);
  Put(out, kEpochAt, static_cast<uint32_t>(frame.epoch));
  Put(out, kBucketAt, frame.bucket);
  Put(out, kValueAt, frame.value);
  Put(out, kAttemptAt, frame.attempt);
  Put(out, kCrcAt, Crc32c(std::span<const std::byte>(out).first(kCrcAt)));
  return out;
}

absl::StatusOr<Frame> Decode(std::span<const std::byte> bytes) {
  if (bytes.size() != kFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a frame has %u bytes, this message has %u", kFrameBytes, bytes.size()));
  }
  if (uint32_t magic = Get<uint32_t>(bytes, kMagicAt); magic != kFrameMagic) {
    return absl::InvalidArgumentError(
        absl::StrFormat("frame starts with %#010x, not the magic %#010x", magic, kFrameMagic));
  }
  if (uint8_t version = Get<uint8_t>(bytes, kVersionAt); version != kFrameVersion) {
    return absl::FailedPreconditionError(
        absl::StrFormat("frame has version %u, this side speaks %u", version, kFrameVersion));
  }
  if (uint16_t length = Get<uint16_t>(bytes, kLengthAt); length != kFrameBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("frame says it has %u bytes, a frame has %u", length, kFrameBytes));
  }
  uint32_t crc = Crc32c(bytes.first(kCrcAt));
  if (uint32_t stored = Get<uint32_t>(bytes, kCrcAt); stored != crc) {
    return absl::DataLossError(
        absl::StrFormat("frame carries checksum %#010x, its bytes have %#010x", stored, crc));
  }
  uint8_t type = Get<uint8_t>(bytes, kTypeAt);
  if (type < static_cast<uint8_t>(FrameType::kHello) ||
      type > static_cast<uint8_t>(FrameType::kLeft)) {
    return absl::InvalidArgumentError(absl::StrFormat("frame has type %u, known are %u to %u", type,
                                                      static_cast<uint8_t>(FrameType::kHello),
                                                      static_cast<uint8_t>(FrameType::kLeft)));
  }
  Frame frame;
  frame.type = static_cast<FrameType>(type);
  frame.job = Get<uint64_t>(bytes, kJobAt);
  frame.session = Get<uint64_t>(bytes, kSessionAt);
  frame.rank = Get<uint32_t>(bytes, kRankAt);
  frame.incarnation = Get<uint32_t>(bytes, kIncarnationAt);
  frame.step = Get<uint64_t>(bytes, kStepAt);
  frame.epoch = Get<uint32_t>(bytes, kEpochAt);
  frame.bucket = Get<uint32_t>(bytes, kBucketAt);
  frame.value = Get<uint64_t>(bytes, kValueAt);
  frame.attempt = Get<uint32_t>(bytes, kAttemptAt);
  if (absl::Status status = CheckReason(frame.type, frame.value); !status.ok()) return status;
  return frame;
}

std::string_view NameOf(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return "HELLO";
    case FrameType::kWelcome:
      return "WELCOME";
    case FrameType::kReady:
      return "READY";
    case FrameType::kStep:
      return "STEP";
    case FrameType::kDone:
      return "DONE";
    case FrameType::kVoid:
      return "VOID";
    case FrameType::kRefused:
      return "REFUSED";
    case FrameType::kPing:
      return "PING";
    case FrameType::kPong:
      return "PONG";
    case FrameType::kBye:
      return "BYE";
    case FrameType::kLink:
      return "LINK";
    case FrameType::kLinked:
      return "LINKED";
    case FrameType::kVote:
      return "VOTE";
    case FrameType::kVerdict:
      return "VERDICT";
    case FrameType::kArrived:
      return "ARRIVED";
    case FrameType::kTaken:
      return "TAKEN";
    case FrameType::kLost:
      return "LOST";
    case FrameType::kLeft:
      return "LEFT";
  }
  return "unknown";
}

}  // namespace muond
