#include "server/session/attach_layout.h"

#include <gtest/gtest.h>

#include "tests/support/manifests.h"

namespace muond {
namespace {

using testing::EmptyManifest;
using testing::Replicated;
using testing::Tensor;

TEST(AttachLayoutTest, BlocksAreAlignedAndFollowEachOther) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("a", {3, 5}), Tensor("b", {7}, Rule::kAdamW), Tensor("c", {2, 2})};
  const auto layout = LayRank(manifest, Replicated(manifest)[0]);
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->blocks[1].gradient_offset, 64u);
  EXPECT_EQ(layout->blocks[2].parameter_offset, 128u);
  EXPECT_EQ(layout->gradient_bytes, 192u);
}

TEST(AttachLayoutTest, EqualReplicasPushInTurnAndWhatIsNotPushedTakesNoRoom) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("a", {4, 4}), Tensor("b", {4, 4}), Tensor("c", {4, 4})};
  const auto ranks = Replicated(manifest);
  const auto zero = LayRank(manifest, ranks[0]), one = LayRank(manifest, ranks[1]);
  EXPECT_TRUE(zero->blocks[0].push_gradient);
  EXPECT_FALSE(zero->blocks[1].push_gradient);
  EXPECT_TRUE(zero->blocks[2].push_gradient);
  EXPECT_EQ(zero->gradient_bytes, 128u);
  EXPECT_EQ(one->gradient_bytes, 64u);
  EXPECT_EQ(one->parameter_bytes, 192u);
}

TEST(AttachLayoutTest, SummedReplicasPushEverything) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("a", {4, 4}), Tensor("b", {4, 4})};
  auto ranks = Replicated(manifest);
  for (RankManifest& rank : ranks) {
    for (ShardSpec& shard : rank.shards) shard.replica_kind = ReplicaKind::kSum;
  }
  EXPECT_EQ(LayRank(manifest, ranks[1])->gradient_bytes, 128u);
}

TEST(AttachLayoutTest, ARankWithoutElementsStillHasASlabToMap) {
  Manifest manifest = EmptyManifest(1);
  const auto layout = LayRank(manifest, RankManifest());
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->gradient_bytes, kBlockAlignment);
  EXPECT_EQ(layout->parameter_bytes, kBlockAlignment);
}

}  // namespace
}  // namespace muond
