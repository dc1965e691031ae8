#include "server/state/layout.h"

#include <algorithm>
#include <bit>
#include <map>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/state/word.h"

namespace muond {
namespace {

uint64_t Align(uint64_t bytes) {
  return (bytes + kStateAlignment - 1) / kStateAlignment * kStateAlignment;
}

}  // namespace

ItemNeed NeedOf(StateRule rule, int device, absl::Span<const RowRun> runs) {
  ItemNeed need;
  need.device = device;
  need.rule = rule;
  // AdamW's counts stand together at the front: one line for eight tensors.
  uint64_t slot = rule == StateRule::kAdamW ? Align(runs.size() * sizeof(double)) : 0;
  uint64_t place = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const uint64_t elements =
        static_cast<uint64_t>(runs[i].rows) * static_cast<uint64_t>(runs[i].cols);
    RunPlace at;
    at.step = i * sizeof(double);
    at.first = slot;
    slot += Align(elements * sizeof(float));
    if (rule == StateRule::kAdamW) {
      at.second = slot;
      slot += Align(elements * sizeof(float));
    }
    at.parameter = place;
    place += Align(elements * runs[i].parameter_bytes_each);
    need.runs.push_back(at);
  }
  need.slot_bytes = std::max<uint64_t>(slot, kStateAlignment);
  need.place_bytes = std::max<uint64_t>(place, kStateAlignment);
  return need;
}

absl::StatusOr<StateLayout> StateLayout::Lay(absl::Span<const ItemNeed> items, int devices) {
  StateLayout layout;
  layout.device_bytes_.assign(devices, 0);
  // Key: device, rule, sizes (AdamW: their powers of two). A map, so that the order is a function of the input alone.
  std::map<std::tuple<int, int, uint64_t, uint64_t>, uint32_t> class_ids;
  for (uint32_t i = 0; i < items.size(); ++i) {
    const ItemNeed& need = items[i];
    if (need.device == kElsewhere) {
      layout.class_of_.push_back(kNoClass);
      layout.first_slot_.push_back(0);
      continue;
    }
    if (need.device < 0 || need.device >= devices) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "item %d belongs to device %d, but there are %d", i, need.device, devices));
    }
    const bool adamw = need.rule == StateRule::kAdamW;
    const auto key =
        std::make_tuple(need.device, static_cast<int>(need.rule),
                        adamw ? std::bit_width(need.slot_bytes - 1) : need.slot_bytes,
                        adamw ? std::bit_width(need.place_bytes - 1) : need.place_bytes);
    const auto [found, added] =
        class_ids.emplace(key, static_cast<uint32_t>(layout.classes_.size()));
    if (added) {
      layout.classes_.emplace_back();
      layout.classes_.back().device = need.device;
    }
    ShapeClass& shape = layout.classes_[found->second];
    layout.class_of_.push_back(found->second);
    layout.first_slot_.push_back(static_cast<uint32_t>(shape.items.size()));
    shape.items.push_back(i);
    shape.slot_bytes = std::max(shape.slot_bytes, need.slot_bytes);
    shape.place_bytes = std::max(shape.place_bytes, need.place_bytes);
  }
  for (ShapeClass& shape : layout.classes_) {
    const uint64_t count = shape.items.size();
    const bool adamw = items[shape.items.front()].rule == StateRule::kAdamW;
    const uint64_t spares =
        std::min<uint64_t>(std::max<uint64_t>(1, (count + kItemsPerSpare - 1) / kItemsPerSpare),
                           adamw ? kAdamWSparesMax : ItemWord::kPlaces);
    if (count + spares > ItemWord::kSlots) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a shape class of %d items needs %d slots; a journal word names %d",
                          count, count + spares, ItemWord::kSlots));
    }
    shape.slots = static_cast<uint32_t>(count + spares);
    shape.places = static_cast<uint32_t>(spares);
    uint64_t& bytes = layout.device_bytes_[shape.device];
    shape.slots_at = bytes;
    bytes += shape.slots * shape.slot_bytes;
    shape.places_at = bytes;
    bytes += shape.places * shape.place_bytes;
  }
  return layout;
}

uint64_t StateLayout::SlotOffset(uint32_t item, uint32_t slot) const {
  const ShapeClass& shape = classes_[class_of_[item]];
  return shape.slots_at + slot * shape.slot_bytes;
}

uint64_t StateLayout::PlaceOffset(uint32_t item, uint32_t place) const {
  const ShapeClass& shape = classes_[class_of_[item]];
  return shape.places_at + place * shape.place_bytes;
}

}  // namespace muond
