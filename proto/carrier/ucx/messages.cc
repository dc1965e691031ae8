#include "proto/carrier/ucx/messages.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/wire/crc32c.h"

namespace muond {
namespace {

constexpr uint32_t kControlMagic = 0x43584355;  // "UCXC" in memory
constexpr uint32_t kKeyMagic = 0x4b584355;      // "UCXK"
constexpr uint8_t kVersion = 1;
constexpr uint32_t kPieceMagic = 0x50584355;  // "UCXP"

template <typename Int>
void Store(std::byte* to, Int value) {
  for (size_t i = 0; i < sizeof(Int); ++i) to[i] = static_cast<std::byte>(value >> (8 * i));
}
template <typename Int>
Int Load(const std::byte* from) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(Int); ++i) value |= std::to_integer<uint64_t>(from[i]) << (8 * i);
  return static_cast<Int>(value);
}

}  // namespace

std::array<std::byte, kControlBytes> Encode(const Control& control) {
  std::array<std::byte, kControlBytes> bytes{};
  Store(&bytes[0], kControlMagic);
  Store(&bytes[4], kVersion);
  Store(&bytes[5], static_cast<uint8_t>(control.kind));
  Store(&bytes[6], static_cast<uint8_t>(control.code));
  Store(&bytes[8], control.carrier);
  Store(&bytes[16], control.value);
  std::copy(control.key.begin(), control.key.end(), bytes.begin() + 24);
  Store(&bytes[60], Crc32c(std::span<const std::byte>(bytes).first(60)));
  return bytes;
}

absl::StatusOr<Control> DecodeControl(std::span<const std::byte> bytes) {
  if (bytes.size() != kControlBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a control message has ", kControlBytes,
                                                   " bytes, this one has ", bytes.size()));
  }
  const auto crc = Load<uint32_t>(&bytes[60]);
  const auto kind = Load<uint8_t>(&bytes[5]);
  if (Load<uint32_t>(&bytes[0]) != kControlMagic || Load<uint8_t>(&bytes[4]) != kVersion ||
      kind < static_cast<uint8_t>(ControlKind::kHello) ||
      kind > static_cast<uint8_t>(ControlKind::kLanded) || crc != Crc32c(bytes.first(60))) {
    return absl::InvalidArgumentError(
        absl::StrCat("no control message: magic ", Load<uint32_t>(&bytes[0]), ", version ",
                     Load<uint8_t>(&bytes[4]), ", kind ", kind, ", checksum ", crc));
  }
  Control control;
  control.kind = static_cast<ControlKind>(kind);
  control.carrier = Load<uint64_t>(&bytes[8]);
  control.value = Load<uint64_t>(&bytes[16]);
  control.code = static_cast<absl::StatusCode>(Load<uint8_t>(&bytes[6]));
  std::copy(bytes.begin() + 24, bytes.begin() + 56, control.key.begin());
  return control;
}

std::array<std::byte, kPieceHeaderBytes> Encode(const PieceHeader& header) {
  std::array<std::byte, kPieceHeaderBytes> bytes{};
  Store(&bytes[0], kPieceMagic);
  Store(&bytes[8], header.number);
  Store(&bytes[16], header.region);
  Store(&bytes[24], header.offset);
  Store(&bytes[32], header.size_bytes);
  Store(&bytes[4], Crc32c(std::span<const std::byte>(bytes).subspan(8)));
  return bytes;
}

absl::StatusOr<PieceHeader> DecodePieceHeader(std::span<const std::byte> bytes) {
  if (bytes.size() != kPieceHeaderBytes || Load<uint32_t>(&bytes[0]) != kPieceMagic ||
      Load<uint32_t>(&bytes[4]) != Crc32c(bytes.subspan(8))) {
    return absl::InvalidArgumentError(
        absl::StrCat("these ", bytes.size(), " bytes are no header of a put"));
  }
  return PieceHeader{Load<uint64_t>(&bytes[8]), Load<uint64_t>(&bytes[16]),
                     Load<uint64_t>(&bytes[24]), Load<uint64_t>(&bytes[32])};
}

std::string Encode(const RegionKey& key) {
  std::array<std::byte, kRegionKeyBytes> bytes{};
  Store(&bytes[0], kKeyMagic);
  Store(&bytes[4], kVersion);
  Store(&bytes[5], static_cast<uint8_t>(key.device));
  Store(&bytes[8], key.carrier);
  Store(&bytes[16], key.region);
  Store(&bytes[24], key.size_bytes);
  Store(&bytes[32], Crc32c(std::span<const std::byte>(bytes).first(32)));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

absl::StatusOr<RegionKey> DecodeRegionKey(std::string_view text) {
  const std::span bytes(reinterpret_cast<const std::byte*>(text.data()), text.size());
  if (bytes.size() != kRegionKeyBytes || Load<uint32_t>(&bytes[0]) != kKeyMagic ||
      Load<uint8_t>(&bytes[4]) != kVersion ||
      Load<uint32_t>(&bytes[32]) != Crc32c(bytes.first(32))) {
    return absl::InvalidArgumentError(
        absl::StrCat("these ", text.size(), " bytes are no region key"));
  }
  return RegionKey{Load<uint64_t>(&bytes[8]), Load<uint64_t>(&bytes[16]),
                   Load<uint64_t>(&bytes[24]), Load<uint8_t>(&bytes[5]) != 0};
}

}  // namespace muond
