// What UCX peers say to each other besides frames, and the key of a region. Little-endian, byte for byte as below.
// Threads: plain values.   Errors: what is not exactly one valid message is INVALID_ARGUMENT with the numbers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

inline constexpr size_t kControlBytes = 64;

enum class ControlKind : uint8_t {
  kHello = 1,    // first message of who connects: the key
  kWelcome = 2,  // its answer
  kStatus = 3,   // heartbeat and credit: value = frames received so far
  kBye = 4,      // nothing more comes; the receiver ends the connection
  kLanded = 5,   // a piece of a put lies in memory, or never will: value = its number, code
};
// Bytes: 0 magic u32 | 4 version u8 | 5 kind u8 | 6 code u8 | 7 zero u8 | 8 carrier u64 | 16 value u64 | 24 key 32 bytes |
// 56 zero u32 | 60 crc32c u32 of bytes 0..59.
struct Control {
  ControlKind kind = ControlKind::kStatus;
  uint64_t carrier = 0;  // which carrier speaks
  uint64_t value = 0;
  AdmissionKey key{};                             // kHello
  absl::StatusCode code = absl::StatusCode::kOk;  // kLanded
};
std::array<std::byte, kControlBytes> Encode(const Control& control);
absl::StatusOr<Control> DecodeControl(std::span<const std::byte> bytes);

// Goes before the bytes of a piece of a put.
// Bytes: 0 magic u32 | 4 crc32c u32 of bytes 8..39 | 8 number u64 | 16 region u64 | 24 offset u64 | 32 size u64.
inline constexpr size_t kPieceHeaderBytes = 40;
struct PieceHeader {
  uint64_t number = 0;  // the sender's; comes back in kLanded
  RegionId region = 0;  // the receiver's
  uint64_t offset = 0;
  uint64_t size_bytes = 0;
};
std::array<std::byte, kPieceHeaderBytes> Encode(const PieceHeader& header);
absl::StatusOr<PieceHeader> DecodePieceHeader(std::span<const std::byte> bytes);

// Bytes: 0 magic u32 | 4 version u8 | 5 device u8 | 6 zero u16 | 8 carrier u64 | 16 region u64 | 24 size u64 |
// 32 crc32c u32 of bytes 0..31.
inline constexpr size_t kRegionKeyBytes = 36;
struct RegionKey {
  uint64_t carrier = 0;  // whose memory it is
  RegionId region = 0;   // as that carrier calls it
  uint64_t size_bytes = 0;
  bool device = false;  // a GPU's
};
std::string Encode(const RegionKey& key);
absl::StatusOr<RegionKey> DecodeRegionKey(std::string_view bytes);

}  // namespace muond
