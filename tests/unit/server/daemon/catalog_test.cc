#include "server/daemon/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/types/items.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

CatalogRecord Record() {
  Manifest manifest = testing::EmptyManifest(2);
  manifest.tensors = {testing::Tensor("w", {6, 4})};
  CatalogRecord record;
  record.job = 42;
  record.incarnation = 3;
  record.devices = 2;
  for (const RankManifest& rank : testing::RowSharded(manifest))
    record.ranks.push_back(std::make_shared<RankManifest>(rank));
  record.sessions = {7, 8};
  record.seats = {70, 0};
  Plan plan;
  plan.epoch = 5;
  plan.devices.resize(1);
  plan.items = *ItemsOf(manifest);
  record.plan = std::make_shared<Plan>(plan);
  record.manifest = std::make_shared<Manifest>(manifest);
  return record;
}

TEST(CatalogTest, WhatIsWrittenIsReadBack) {
  const std::string bytes = WriteCatalog(Record());
  const auto record = ReadCatalog(bytes);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->job, 42u);
  EXPECT_EQ(record->incarnation, 3u);
  EXPECT_EQ(record->devices, 2u);
  EXPECT_EQ(record->sessions, (std::vector<uint64_t>{7, 8}));
  EXPECT_EQ(record->seats, (std::vector<uint64_t>{70, 0}));
  EXPECT_EQ(FirstDifference(*record->manifest, *Record().manifest), "");
  EXPECT_EQ(record->plan->epoch, 5u);
  EXPECT_EQ(record->ranks[1]->shards[0].offset, (std::vector<int64_t>{3, 0}));
}

TEST(CatalogTest, EveryCutOffCatalogueIsDataLoss) {
  const std::string bytes = WriteCatalog(Record());
  for (size_t size = 0; size < bytes.size(); size += 3) {
    EXPECT_EQ(ReadCatalog({bytes.data(), size}).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(CatalogTest, MembersAreReadBackAndRanksElsewhereAreMarked) {
  CatalogRecord written = Record();
  written.members.members = {{"first", "10.0.0.1:7"}, {"second", "10.0.0.2:7"}};
  written.members.member_of_rank = {1, 0};
  written.members.secret = std::string(kJobSecretBytes, 's');
  written.self = 1;
  std::string bytes = WriteCatalog(written);
  const auto record = ReadCatalog(bytes);
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->self, 1u);
  ASSERT_EQ(record->members.members.size(), 2u);
  EXPECT_EQ(record->members.members[1].shard_address, "10.0.0.2:7");
  EXPECT_EQ(record->members.member_of_rank, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(record->members.secret, written.members.secret);
  EXPECT_EQ(CatalogRankState(bytes.data(), 0).load(), static_cast<uint64_t>(CatalogRank::kJoined));
  EXPECT_EQ(CatalogRankState(bytes.data(), 1).load(),
            static_cast<uint64_t>(CatalogRank::kElsewhere));
  for (size_t size = 0; size < bytes.size(); size += 3) {
    EXPECT_EQ(ReadCatalog({bytes.data(), size}).status().code(), absl::StatusCode::kDataLoss)
        << size;
  }
}

TEST(CatalogTest, ASlabBelongsToTheJobOnceItsIdStandsInTheTable) {
  std::string bytes = WriteCatalog(Record());
  const CatalogSlabs slabs(bytes.data());
  EXPECT_FALSE(slabs.Names(99));
  slabs.state(1).store(99);
  EXPECT_TRUE(slabs.Names(99));
  CatalogRankState(bytes.data(), 1).store(static_cast<uint64_t>(CatalogRank::kGone));
  EXPECT_TRUE(ReadCatalog(bytes).ok());
}

}  // namespace
}  // namespace muond
