// ItemWord: the journal's one 64-bit word of an item: step << 32 | slot << 11 | place.
// 32 bits of step: 4 billion steps. 21 bits of slot: 2097152, above the limit of items of a job (2^20) and its spares. 11 bits
// of place: 2048 staged parameters of one shape class at once; classes are laid out with no more.
#pragma once

#include <cstdint>

namespace muond {

struct ItemWord {
  static constexpr uint64_t kSlots = uint64_t{1} << 21;
  static constexpr uint64_t kPlaces = uint64_t{1} << 11;
  static constexpr uint64_t kSteps = uint64_t{1} << 32;

  uint64_t step = 0;
  uint32_t slot = 0, place = 0;

  constexpr uint64_t Pack() const { return step << 32 | uint64_t{slot} << 11 | place; }
  static constexpr ItemWord Unpack(uint64_t word) {
    return {word >> 32, static_cast<uint32_t>(word >> 11 & (kSlots - 1)),
            static_cast<uint32_t>(word & (kPlaces - 1))};
  }
  bool operator==(const ItemWord&) const = default;
};

}  // namespace muond
