// StateLayout: where every item's state and staged parameter may lie. A pure function of what each item needs, so that a
// journal word (step, slot, place) is all that is needed to find them again, in this process or in a successor.
//
// Items of one device with equal needs form a shape class. A class has slots for the state (one an item, and spares) and
// places for the staged parameter (as many as it has spare slots). All offsets are bytes into the device's state slab,
// multiples of kStateAlignment.
// Threads: plain values.   Errors: INVALID_ARGUMENT beyond what a journal word can name, with the numbers.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace muond {

inline constexpr uint64_t kStateAlignment = 64;
// Spares of a class: one for eight items, at least one. 8 bytes (fp32 momentum and staged parameter) for one parameter in
// eight: 1 byte per parameter.
inline constexpr uint32_t kItemsPerSpare = 8;
// AdamW chunks need no company to run well: two spares let the next one be staged while one is copied out.
inline constexpr uint32_t kAdamWSparesMax = 2;

// One run of rows of one tensor within an item.
struct RowRun {
  int64_t rows = 0, cols = 0;
  uint32_t parameter_bytes_each = 4;
};

// Where the parts of one run lie, in bytes from the start of the item's slot (state) or place (parameter).
struct RunPlace {
  uint64_t step = 0;       // AdamW: one double
  uint64_t first = 0;      // Muon: momentum; AdamW: exp_avg
  uint64_t second = 0;     // AdamW: exp_avg_sq
  uint64_t parameter = 0;  // in the place
};

inline constexpr int kElsewhere = -1;
inline constexpr uint32_t kNoClass = 0xffffffff;

enum class StateRule : uint8_t { kMuon = 1, kAdamW = 2 };

struct ItemNeed {
  int device = 0;  // kElsewhere: of another daemon; it has no class, slot or place here
  StateRule rule = StateRule::kMuon;
  uint64_t slot_bytes = 0, place_bytes = 0;
  std::vector<RunPlace> runs;
};

// What an item with these runs needs. Muon items have one run.
ItemNeed NeedOf(StateRule rule, int device, absl::Span<const RowRun> runs);

struct ShapeClass {
  int device = 0;
  uint64_t slot_bytes = 0, place_bytes = 0;
  uint32_t slots = 0, places = 0;
  uint64_t slots_at = 0, places_at = 0;
  std::vector<uint32_t> items;  // in order of their ids; the n-th starts in slot n
};

class StateLayout {
 public:
  // Muon items share a class when both sizes are equal; AdamW chunks when their sizes lie in the same power of two (the
  // class then has the larger need), because their cuts are rarely equal.
  static absl::StatusOr<StateLayout> Lay(absl::Span<const ItemNeed> items, int devices);

  absl::Span<const ShapeClass> classes() const { return classes_; }
  uint32_t class_of(uint32_t item) const { return class_of_[item]; }
  uint32_t first_slot(uint32_t item) const { return first_slot_[item]; }
  uint32_t items() const { return static_cast<uint32_t>(class_of_.size()); }
  // Of the state slab of one device; 0 when it owns nothing.
  uint64_t device_bytes(int device) const { return device_bytes_[device]; }
  uint64_t SlotOffset(uint32_t item, uint32_t slot) const;
  uint64_t PlaceOffset(uint32_t item, uint32_t place) const;

 private:
  std::vector<ShapeClass> classes_;
  std::vector<uint32_t> class_of_, first_slot_;
  std::vector<uint64_t> device_bytes_;
};

}  // namespace muond
