#include "proto/planner/patterns.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace muond {
namespace {

TEST(PatternsTest, TwoLargeOnesNeverShareABin) {
  // Five items of 6 and capacity 10: five bins, though their sum fits three.
  const std::vector<SizeClass> classes = {{6, 5}};
  EXPECT_NEAR(BinsNeeded(classes, 10), 5, 1e-6);
  EXPECT_FALSE(Pack(classes, 10, 4).has_value());
  ASSERT_TRUE(Pack(classes, 10, 5).has_value());
}

TEST(PatternsTest, AnItemLargerThanABinNeedsInfinitelyMany) {
  EXPECT_TRUE(std::isinf(BinsNeeded(std::vector<SizeClass>{{6, 1}}, 5)));
  EXPECT_FALSE(Pack(std::vector<SizeClass>{{6, 1}}, 5, 10).has_value());
}

TEST(PatternsTest, PackingsHoldEveryItemOnceWithinCapacity) {
  const std::vector<SizeClass> classes = {{7, 20}, {5, 31}, {2, 44}};
  const std::optional<std::vector<Pattern>> packed = Pack(classes, 14, 30);
  ASSERT_TRUE(packed.has_value());
  std::vector<int64_t> held(3, 0);
  int64_t bins = 0;
  for (const Pattern& pattern : *packed) {
    double size = 0;
    for (size_t i = 0; i < 3; ++i) {
      size += static_cast<double>(pattern.counts[i]) * classes[i].size;
      held[i] += pattern.counts[i] * pattern.bins;
    }
    EXPECT_LE(size, 14 + 1e-6);
    bins += pattern.bins;
  }
  EXPECT_LE(bins, 30);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(held[i], classes[i].count);
}

// Fewest bins, by trying everything.
int FewestBins(std::vector<int> items, std::vector<int>& bins, size_t at, int capacity, int best) {
  if (static_cast<int>(bins.size()) >= best) return best;
  if (at == items.size()) return static_cast<int>(bins.size());
  for (size_t b = 0; b < bins.size(); ++b) {
    if (bins[b] + items[at] > capacity) continue;
    bins[b] += items[at];
    best = std::min(best, FewestBins(items, bins, at + 1, capacity, best));
    bins[b] -= items[at];
  }
  bins.push_back(items[at]);
  best = std::min(best, FewestBins(items, bins, at + 1, capacity, best));
  bins.pop_back();
  return best;
}

TEST(PatternsTest, TheBoundNeverExceedsTheTruthAndPackingsNeverBeatIt) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    std::vector<SizeClass> classes;
    std::vector<int> items;
    for (int c = 0; c < 3; ++c) {
      const int size = 2 + static_cast<int>(random() % 9), count = static_cast<int>(random() % 4);
      if (count == 0) continue;
      classes.push_back({static_cast<double>(size), count});
      items.insert(items.end(), static_cast<size_t>(count), size);
    }
    if (items.empty()) continue;
    std::vector<int> bins;
    const int fewest = FewestBins(items, bins, 0, 11, 100);
    ASSERT_LE(BinsNeeded(classes, 11), fewest + 1e-6);
    for (int limit = 1; limit < fewest; ++limit) ASSERT_FALSE(Pack(classes, 11, limit).has_value());
    ASSERT_TRUE(Pack(classes, 11, fewest + 1).has_value());
  }
}

}  // namespace
}  // namespace muond
