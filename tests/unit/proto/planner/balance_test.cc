#include "proto/planner/balance.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<BalanceItem> Items(std::vector<double> seconds, uint64_t size_bytes = 1) {
  std::vector<BalanceItem> items;
  for (double one : seconds) items.push_back({{one}, size_bytes, -1});
  return items;
}
std::vector<BalanceDevice> Devices(size_t count, uint64_t room = 1000) {
  return std::vector<BalanceDevice>(count, BalanceDevice{0, room});
}

TEST(BalanceTest, BeatsLongestFirstWhereThatIsKnownToBeBad) {
  // Longest first needs 11 on {5,5,4,4,3,3,3} x 3; 9 is possible.
  const Balance balance = *BalanceItems(Items({5, 5, 4, 4, 3, 3, 3}), Devices(3));
  EXPECT_DOUBLE_EQ(balance.makespan, 9);
  EXPECT_DOUBLE_EQ(balance.lower_bound, 9);
}

TEST(BalanceTest, ProvesThatWholeItemsCannotDoBetter) {
  // Five equal items on four devices: one has two, though the mean is 1.25.
  const Balance balance = *BalanceItems(Items({1, 1, 1, 1, 1}), Devices(4));
  EXPECT_DOUBLE_EQ(balance.makespan, 2);
  EXPECT_DOUBLE_EQ(balance.lower_bound, 1.25);
  EXPECT_GT(balance.proven, 1.999);
  EXPECT_LE(balance.proven, 2);
}

TEST(BalanceTest, MemoryLimitsHoldEvenWhenTheyCostBalance) {
  std::vector<BalanceItem> items = Items({10, 1, 1, 1}, 4);
  std::vector<BalanceDevice> devices = {{0, 12}, {0, 4}};
  const Balance balance = *BalanceItems(items, devices);
  std::vector<uint64_t> used(2, 0);
  for (size_t i = 0; i < items.size(); ++i) used[static_cast<size_t>(balance.owner[i])] += 4;
  EXPECT_THAT(used, ElementsAre(12, 4));
  EXPECT_DOUBLE_EQ(balance.makespan, 10);  // the long one sits alone on the small device
}

TEST(BalanceTest, WhatFitsNowhereIsRefusedWithTheByteCounts) {
  const absl::Status status = BalanceItems(Items({1, 1, 1}, 400), Devices(2, 500)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("an item needs 400 bytes, the roomiest of 2 devices has 100 left; "
                        "all items need 1200 bytes, all devices had 1000"));
}

TEST(BalanceTest, ItemsStayWhereTheyArePreferredWhenThatCostsNothing) {
  std::vector<BalanceItem> items = Items({3, 3, 2, 2, 1, 1});
  const std::vector<int32_t> preferred = {1, 0, 1, 0, 1, 0};
  for (size_t i = 0; i < items.size(); ++i) items[i].preferred = preferred[i];
  const Balance balance = *BalanceItems(items, Devices(2));
  EXPECT_EQ(balance.kept, 6);
  EXPECT_EQ(balance.owner, preferred);
}

TEST(BalanceTest, OnlyAsManyMoveAsTheBalanceNeeds) {
  // All on device 0, which must give half away.
  std::vector<BalanceItem> items = Items(std::vector<double>(100, 1));
  for (BalanceItem& item : items) item.preferred = 0;
  const Balance balance = *BalanceItems(items, Devices(2));
  EXPECT_DOUBLE_EQ(balance.makespan, 50);
  EXPECT_EQ(balance.kept, 50);
}

TEST(BalanceTest, AFasterKindGetsMore) {
  std::vector<BalanceItem> items;
  for (int i = 0; i < 110; ++i) items.push_back({{10, 1}, 1, -1});
  const Balance balance = *BalanceItems(items, std::vector<BalanceDevice>{{0, 1000}, {1, 1000}});
  EXPECT_EQ(std::count(balance.owner.begin(), balance.owner.end(), 1), 100);
  EXPECT_DOUBLE_EQ(balance.makespan, 100);
}

}  // namespace
}  // namespace muond
