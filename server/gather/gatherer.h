// Gatherer: counts the announcements of a step until every item's gradients are whole.
//
// An announcement says that one rank's gradients of one bucket, in their n-th attempt, are in its slab. An item is whole when
// every (rank, bucket) that holds a part of it, and that is read for it, has announced. A later attempt of the same step makes
// the items of that bucket new: whatever was measured of them is stale.
// Bookkeeping only: it moves no bytes, starts no thread, reads no clock.
// Threads: the StepLoop.   Units: steps start at 1, attempts at 0.   Memory: nothing is allocated after Create.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace muond {

// The value of a gradient_ready cell.
inline constexpr uint32_t kAttemptsMax = 0xffff;
constexpr uint64_t PackAnnouncement(uint64_t step, uint32_t attempt) {
  return step << 16 | attempt;
}
constexpr uint64_t AnnouncedStep(uint64_t cell) { return cell >> 16; }
constexpr uint32_t AnnouncedAttempt(uint64_t cell) { return static_cast<uint32_t>(cell & 0xffff); }

// Item `item` reads gradients that rank `rank` announces with bucket `bucket`.
struct ItemSource {
  uint32_t item = 0, rank = 0, bucket = 0;
};

enum class AnnouncementTaken : uint8_t {
  kNew = 1,         // first of this step
  kSuperseded = 2,  // a later attempt: items of the bucket have a new generation
  kRepeat = 3,      // known; nothing changed
  kOtherStep = 4,   // not of the step being gathered; nothing changed
};

class Gatherer {
 public:
  Gatherer(uint32_t ranks, uint32_t buckets, uint32_t items, absl::Span<const ItemSource> sources);

  void Begin(uint64_t step);
  // `cell` is a gradient_ready value. Items that this makes whole (or whole again) are appended to `whole`.
  AnnouncementTaken Announce(uint32_t rank, uint32_t bucket, uint64_t cell,
                             std::vector<uint32_t>* whole);

  uint64_t step() const { return step_; }
  bool whole(uint32_t item) const { return missing_[item] == 0; }
  // Rises with every superseding announcement that touches the item.
  uint32_t generation(uint32_t item) const { return generations_[item]; }
  bool announced(uint32_t rank, uint32_t bucket) const {
    return AnnouncedStep(cells_[rank * buckets_ + bucket]) == step_;
  }
  uint32_t attempt(uint32_t rank, uint32_t bucket) const {
    return AnnouncedAttempt(cells_[rank * buckets_ + bucket]);
  }

 private:
  absl::Span<const uint32_t> ItemsOf(uint32_t rank, uint32_t bucket) const;

  uint32_t buckets_;
  uint64_t step_ = 0;
  std::vector<uint64_t> cells_;  // [ranks][buckets], the newest announcement
  std::vector<uint32_t> first_,
      items_;  // items of (rank, bucket): items_[first_[k] .. first_[k + 1])
  std::vector<uint32_t> sources_of_, missing_, generations_;  // [items]
};

}  // namespace muond
