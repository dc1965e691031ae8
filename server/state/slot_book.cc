#include "server/state/slot_book.h"

#include <algorithm>

namespace muond {

SlotBook::SlotBook(const StateLayout& layout, const Journal& journal) : layout_(layout) {
  std::vector<std::vector<bool>> taken;
  for (const ShapeClass& shape : layout.classes()) taken.emplace_back(shape.slots, false);
  for (uint32_t item = 0; item < layout.items(); ++item) {
    words_.push_back(journal.word(item));
    if (layout.class_of(item) != kNoClass) taken[layout.class_of(item)][words_.back().slot] = true;
  }
  staged_ = words_;
  for (size_t c = 0; c < taken.size(); ++c) {
    const ShapeClass& shape = layout.classes()[c];
    Ring slots, places;
    slots.entries.resize(shape.slots);
    places.entries.resize(shape.places);
    for (uint32_t slot = 0; slot < shape.slots; ++slot) {
      if (!taken[c][slot]) slots.Push(slot);
    }
    for (uint32_t place = 0; place < shape.places; ++place) places.Push(place);
    free_slots_.push_back(std::move(slots));
    free_places_.push_back(std::move(places));
  }
}

uint32_t SlotBook::Room(uint32_t item) const {
  const uint32_t c = layout_.class_of(item);
  return std::min(free_slots_[c].count, free_places_[c].count);
}

std::optional<ItemWord> SlotBook::Stage(uint32_t item, uint64_t step) {
  if (Room(item) == 0) return std::nullopt;
  const uint32_t c = layout_.class_of(item);
  staged_[item] = ItemWord{step, free_slots_[c].Pop(), free_places_[c].Pop()};
  return staged_[item];
}

void SlotBook::Flipped(uint32_t item) {
  free_slots_[layout_.class_of(item)].Push(words_[item].slot);
  words_[item] = staged_[item];
}

void SlotBook::CopiedOut(uint32_t item) {
  free_places_[layout_.class_of(item)].Push(words_[item].place);
}

}  // namespace muond
