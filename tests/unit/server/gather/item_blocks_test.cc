#include "server/gather/item_blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/types/items.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using testing::EmptyManifest;
using testing::Replicated;
using testing::RowSharded;
using testing::Tensor;

std::vector<const RankManifest*> Views(const std::vector<RankManifest>& ranks) {
  std::vector<const RankManifest*> views;
  for (const RankManifest& rank : ranks) views.push_back(&rank);
  return views;
}

int32_t InTurn(int32_t tensor, int32_t replicas) { return tensor % replicas; }

TEST(ItemBlocksTest, ReadPartsCoverEveryElementOfEveryItemOnce) {
  Manifest manifest = EmptyManifest(3);
  manifest.tensors = {Tensor("w", {10, 6}), Tensor("stack", {4, 5, 3}, Rule::kMuon, 2),
                      Tensor("b", {7}, Rule::kAdamW)};
  manifest.tensors[1].matrix_rows = {5, 5, 5, 5};
  for (const auto& ranks : {Replicated(manifest), RowSharded(manifest)}) {
    const auto items = ItemsOf(manifest);
    ASSERT_TRUE(items.ok());
    const auto parts = PartsOf(manifest, Views(ranks), *items, InTurn);
    ASSERT_TRUE(parts.ok());
    for (const ItemParts& item : *parts) {
      for (const RunParts& run : item.runs) {
        std::vector<int> seen(static_cast<size_t>(run.rows * run.cols), 0);
        for (const Part& part : run.parts) {
          if (!part.provides) continue;
          for (int64_t r = 0; r < part.rectangle.rows; ++r) {
            for (int64_t c = 0; c < part.rectangle.cols; ++c) {
              ++seen[static_cast<size_t>((part.rectangle.row + r) * run.cols + part.rectangle.col +
                                         c)];
            }
          }
        }
        EXPECT_THAT(seen, ::testing::Each(1));
      }
    }
  }
}

TEST(ItemBlocksTest, EqualReplicasAreReadInTurnAndOnlyTheReaderIsWaitedFor) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("a", {4, 4}), Tensor("b", {4, 4})};
  const auto ranks = Replicated(manifest);
  const auto items = ItemsOf(manifest);
  const auto parts = PartsOf(manifest, Views(ranks), *items, InTurn);
  ASSERT_TRUE(parts.ok());
  const auto sources = SourcesOf(manifest, *parts, Views(ranks));
  ASSERT_EQ(sources.size(), 2u);
  EXPECT_EQ(sources[0].rank, 0u);
  EXPECT_EQ(sources[1].rank, 1u);
}

TEST(ItemBlocksTest, EqualReplicasThatAreCutDifferentlyAreRefusedByName) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("w", {4, 4})};
  auto ranks = Replicated(manifest);
  ShardSpec lower = ranks[1].shards[0];
  ranks[1].shards[0].extent = {2, 4};
  lower.offset = {2, 0};
  lower.extent = {2, 4};
  ranks[1].shards.push_back(lower);
  const auto tensors = GatheredTensors(manifest, Views(ranks));
  EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(tensors.status().message(),
              ::testing::HasSubstr("tensor 'w': equal replicas 0 (1 blocks) and 1 (2 blocks)"));
}

}  // namespace
}  // namespace muond
