#include "server/state/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "server/state/word.h"

namespace muond {
namespace {

ItemNeed Muon(int device, int64_t rows, int64_t cols) {
  return NeedOf(StateRule::kMuon, device, {{rows, cols, 4}});
}

TEST(ItemWordTest, EveryFieldSurvivesPackingAtItsLimit) {
  const ItemWord word{ItemWord::kSteps - 1, static_cast<uint32_t>(ItemWord::kSlots - 1),
                      static_cast<uint32_t>(ItemWord::kPlaces - 1)};
  EXPECT_EQ(ItemWord::Unpack(word.Pack()), word);
  EXPECT_EQ(word.Pack(), ~uint64_t{0});
  EXPECT_EQ(ItemWord::Unpack(ItemWord{7, 0, 3}.Pack()), (ItemWord{7, 0, 3}));
}

TEST(StateLayoutTest, WhatAnotherDaemonOwnsTakesNothing) {
  const auto layout = StateLayout::Lay({{Muon(0, 5, 7), Muon(kElsewhere, 5, 7), Muon(0, 5, 7)}}, 1);
  ASSERT_TRUE(layout.ok()) << layout.status();
  const auto here = StateLayout::Lay({{Muon(0, 5, 7), Muon(0, 5, 7)}}, 1);
  EXPECT_EQ(layout->device_bytes(0), here->device_bytes(0));
  EXPECT_EQ(layout->class_of(1), kNoClass);
  EXPECT_EQ(layout->first_slot(2), 1u);
}

TEST(StateLayoutTest, NoTwoSlotsOrPlacesOfADeviceOverlap) {
  std::vector<ItemNeed> needs;
  for (int i = 0; i < 20; ++i) needs.push_back(Muon(i % 2, 5 + i % 3, 7));
  needs.push_back(NeedOf(StateRule::kAdamW, 0, {{10, 3, 4}, {1, 1, 2}, {100, 1, 4}}));
  const auto layout = StateLayout::Lay(needs, 2);
  ASSERT_TRUE(layout.ok());
  for (int device = 0; device < 2; ++device) {
    std::set<std::pair<uint64_t, uint64_t>> spans;
    for (const ShapeClass& shape : layout->classes()) {
      if (shape.device != device) continue;
      for (uint32_t s = 0; s < shape.slots; ++s)
        spans.insert({shape.slots_at + s * shape.slot_bytes, shape.slot_bytes});
      for (uint32_t p = 0; p < shape.places; ++p)
        spans.insert({shape.places_at + p * shape.place_bytes, shape.place_bytes});
    }
    uint64_t end = 0;
    for (const auto& [begin, bytes] : spans) {
      EXPECT_GE(begin, end);
      EXPECT_EQ(begin % kStateAlignment, 0u);
      end = begin + bytes;
    }
    EXPECT_EQ(end, layout->device_bytes(device));
  }
}

TEST(StateLayoutTest, AClassHasASpareForEightItemsAndAtLeastOne) {
  std::vector<ItemNeed> needs(17, Muon(0, 4, 4));
  needs.push_back(Muon(0, 9, 9));
  const auto layout = StateLayout::Lay(needs, 1);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->classes()[layout->class_of(0)].slots, 20u);
  EXPECT_EQ(layout->classes()[layout->class_of(0)].places, 3u);
  EXPECT_EQ(layout->classes()[layout->class_of(17)].slots, 2u);
}

TEST(StateLayoutTest, ManyAdamWChunksShareTwoSpares) {
  const auto layout =
      StateLayout::Lay(std::vector<ItemNeed>(100, NeedOf(StateRule::kAdamW, 0, {{1000, 1, 4}})), 1);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->classes()[0].slots, 102u);
  EXPECT_EQ(layout->classes()[0].places, 2u);
}

TEST(StateLayoutTest, AdamWPartsOfAChunkLieApart) {
  const ItemNeed need = NeedOf(StateRule::kAdamW, 0, {{3, 5, 4}, {1, 1, 2}});
  EXPECT_EQ(need.runs[1].step, 8u);
  EXPECT_EQ(need.runs[0].first, 64u);
  EXPECT_EQ(need.runs[0].second, 128u);
  EXPECT_EQ(need.runs[1].first, 192u);
  EXPECT_EQ(need.slot_bytes, 320u);
  EXPECT_EQ(need.runs[1].parameter, 64u);
  EXPECT_EQ(need.place_bytes, 128u);
}

TEST(StateLayoutTest, AdamWChunksWithinOnePowerOfTwoShareTheirSpare) {
  const auto layout =
      StateLayout::Lay(std::vector<ItemNeed>{NeedOf(StateRule::kAdamW, 0, {{1000, 1, 4}}),
                                             NeedOf(StateRule::kAdamW, 0, {{900, 1, 4}})},
                       1);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->classes().size(), 1u);
  EXPECT_EQ(layout->classes()[0].slots, 3u);
}

TEST(StateLayoutTest, AnItemOfADeviceThatIsNotHereIsRefused) {
  const auto layout = StateLayout::Lay(std::vector<ItemNeed>{Muon(3, 4, 4)}, 2);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(layout.status().message(), ::testing::HasSubstr("device 3, but there are 2"));
}

}  // namespace
}  // namespace muond
