// SlotBook: which slots and places are free, derived from the journal's words and from nothing else.
//
// Slots are handed out in the order of one device stream: what is staged later runs after what was flipped and copied out
// earlier on that stream, so a slot is free again as soon as the flip that leaves it has been enqueued, and a place as soon
// as its copy-out has been. A device therefore runs all items of a job on one stream.
// Threads: the StepLoop.   Memory: nothing is allocated after Create.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "server/state/journal.h"
#include "server/state/layout.h"

namespace muond {

class SlotBook {
 public:
  // `layout` is borrowed for the book's life. REQUIRES: no copy-out is pending for any word of `journal`.
  SlotBook(const StateLayout& layout, const Journal& journal);

  // How many items of this item's class can be staged before the next Flipped and CopiedOut.
  uint32_t Room(uint32_t item) const;
  // A free slot and place for the item's next step; nullopt when the class has none left.
  std::optional<ItemWord> Stage(uint32_t item, uint64_t step);
  void Flipped(uint32_t item);    // the staged word is the item's word; the slot before it is free
  void CopiedOut(uint32_t item);  // its place is free

  const ItemWord& word(uint32_t item) const { return words_[item]; }

 private:
  // A ring, so that freshly left slots are reused last.
  struct Ring {
    std::vector<uint32_t> entries;
    uint32_t head = 0, count = 0;
    void Push(uint32_t value) { entries[(head + count++) % entries.size()] = value; }
    uint32_t Pop() {
      const uint32_t value = entries[head];
      head = (head + 1) % entries.size();
      --count;
      return value;
    }
  };
  const StateLayout& layout_;
  std::vector<ItemWord> words_, staged_;
  std::vector<Ring> free_slots_, free_places_;
};

}  // namespace muond
