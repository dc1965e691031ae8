#include "server/keeper/keeper_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace muond {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

SlabInfo Slab(uint64_t id, uint64_t size_bytes = 100) {
  SlabInfo info;
  info.slab = id;
  info.size_bytes = size_bytes;
  return info;
}

TEST(KeeperTableTest, CountsBytesAndKeepsTheOrder) {
  KeeperTable table;
  ASSERT_TRUE(table.Keep(Slab(9, 10)).ok());
  ASSERT_TRUE(table.Keep(Slab(3, 20)).ok());
  ASSERT_TRUE(table.Keep(Slab(5, 30)).ok());
  EXPECT_EQ(table.total_bytes(), 60u);
  ASSERT_TRUE(table.Drop(3).ok());
  EXPECT_EQ(table.total_bytes(), 40u);
  EXPECT_THAT(table.SlabsInOrder(), ElementsAre(9, 5));
  ASSERT_TRUE(table.Keep(Slab(3, 1)).ok());
  EXPECT_THAT(table.SlabsInOrder(), ElementsAre(9, 5, 3));
}

TEST(KeeperTableTest, WhatIsRefusedChangesNothing) {
  KeeperTable table;
  ASSERT_TRUE(table.Keep(Slab(1)).ok());
  EXPECT_EQ(table.Keep(Slab(1, 5)).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(table.Keep(Slab(0)).code(), absl::StatusCode::kInvalidArgument);
  const auto overflow = table.Keep(Slab(2, std::numeric_limits<uint64_t>::max()));
  EXPECT_EQ(overflow.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(overflow.message()), HasSubstr("18446744073709551615"));
  EXPECT_EQ(table.Drop(7).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table.Grant(8, 7).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table.Grant(0, 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(table.slabs(), 1u);
  EXPECT_EQ(table.sessions(), 0u);
  EXPECT_EQ(table.total_bytes(), 100u);
}

TEST(KeeperTableTest, ASessionFetchesWhatItWasGrantedAndNothingElse) {
  KeeperTable table;
  for (uint64_t slab : {1, 2, 3}) ASSERT_TRUE(table.Keep(Slab(slab)).ok());
  ASSERT_TRUE(table.Grant(10, 3).ok());
  ASSERT_TRUE(table.Grant(10, 1).ok());
  ASSERT_TRUE(table.Grant(10, 3).ok());  // twice is once
  ASSERT_TRUE(table.Grant(11, 2).ok());
  EXPECT_THAT(*table.Fetch(10), ElementsAre(3, 1));
  EXPECT_THAT(*table.Fetch(11), ElementsAre(2));
  EXPECT_EQ(table.Fetch(12).status().code(), absl::StatusCode::kPermissionDenied);
  ASSERT_TRUE(table.Drop(3).ok());
  EXPECT_THAT(*table.Fetch(10), ElementsAre(1));
  EXPECT_TRUE(table.Revoke(10));
  EXPECT_FALSE(table.Revoke(10));
  EXPECT_EQ(table.Fetch(10).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(KeeperTableTest, ARankIsGoneWithItsLastConnection) {
  KeeperTable table;
  ASSERT_TRUE(table.Keep(Slab(1)).ok());
  ASSERT_TRUE(table.Grant(10, 1).ok());
  table.Connected(10);
  table.Connected(10);  // it came back before its old connection's end was seen
  EXPECT_FALSE(table.Disconnected(10));
  EXPECT_TRUE(table.Disconnected(10));
  EXPECT_FALSE(table.Disconnected(10));
  EXPECT_THAT(table.GoneSessions(), ElementsAre(10));
  table.Connected(10);
  EXPECT_THAT(table.GoneSessions(), IsEmpty());
}

TEST(KeeperTableTest, ARevokedSessionIsNobodysLoss) {
  KeeperTable table;
  ASSERT_TRUE(table.Keep(Slab(1)).ok());
  ASSERT_TRUE(table.Grant(10, 1).ok());
  table.Connected(10);
  EXPECT_TRUE(table.Revoke(10));
  EXPECT_FALSE(table.Disconnected(10));
  EXPECT_THAT(table.GoneSessions(), IsEmpty());
}

TEST(KeeperTableTest, CountsAreCapped) {
  KeeperTable table;
  for (uint64_t i = 1; i <= kGrantsPerSessionMax + 1; ++i) ASSERT_TRUE(table.Keep(Slab(i)).ok());
  for (uint64_t i = 1; i <= kGrantsPerSessionMax; ++i) ASSERT_TRUE(table.Grant(1, i).ok());
  EXPECT_EQ(table.Grant(1, kGrantsPerSessionMax + 1).code(), absl::StatusCode::kResourceExhausted);
  for (uint64_t i = 2; i <= kSessionsGrantedMax; ++i) ASSERT_TRUE(table.Grant(i, 1).ok());
  EXPECT_EQ(table.Grant(kSessionsGrantedMax + 1, 1).code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace muond
