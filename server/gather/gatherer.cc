#include "server/gather/gatherer.h"

#include <algorithm>

namespace muond {

Gatherer::Gatherer(uint32_t ranks, uint32_t buckets, uint32_t items,
                   absl::Span<const ItemSource> sources)
    : buckets_(buckets),
      cells_(size_t{ranks} * buckets, 0),
      first_(size_t{ranks} * buckets + 1, 0),
      sources_of_(items, 0),
      missing_(items, 0),
      generations_(items, 0) {
  std::vector<ItemSource> sorted(sources.begin(), sources.end());
  const auto key = [this](const ItemSource& source) {
    return std::make_pair(size_t{source.rank} * buckets_ + source.bucket, source.item);
  };
  std::sort(sorted.begin(), sorted.end(),
            [&](const ItemSource& x, const ItemSource& y) { return key(x) < key(y); });
  sorted.erase(
      std::unique(sorted.begin(), sorted.end(),
                  [&](const ItemSource& x, const ItemSource& y) { return key(x) == key(y); }),
      sorted.end());
  for (const ItemSource& source : sorted) {
    ++first_[key(source).first + 1];
    ++sources_of_[source.item];
    items_.push_back(source.item);
  }
  for (size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
}

absl::Span<const uint32_t> Gatherer::ItemsOf(uint32_t rank, uint32_t bucket) const {
  const size_t at = size_t{rank} * buckets_ + bucket;
  return absl::MakeConstSpan(items_).subspan(first_[at], first_[at + 1] - first_[at]);
}

void Gatherer::Begin(uint64_t step) {
  step_ = step;
  missing_ = sources_of_;
}

AnnouncementTaken Gatherer::Announce(uint32_t rank, uint32_t bucket, uint64_t cell,
                                     std::vector<uint32_t>* whole) {
  if (AnnouncedStep(cell) != step_) return AnnouncementTaken::kOtherStep;
  uint64_t& known = cells_[size_t{rank} * buckets_ + bucket];
  const bool first = AnnouncedStep(known) != step_;
  if (!first && cell <= known) return AnnouncementTaken::kRepeat;
  known = cell;
  for (const uint32_t item : ItemsOf(rank, bucket)) {
    if (first) {
      --missing_[item];
    } else {
      ++generations_[item];
    }
    if (missing_[item] == 0) whole->push_back(item);
  }
  return first ? AnnouncementTaken::kNew : AnnouncementTaken::kSuperseded;
}

}  // namespace muond
