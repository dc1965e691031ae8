#include "proto/types/shards.h"

#include <chrono>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::RowSharded;
using ::muond::testing::Shard;
using ::muond::testing::Tensor;
using ::muond::testing::Whole;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Rectangle> Rectangles(const TensorSpec& tensor, const ShardSpec& shard) {
  return *RectanglesOf(tensor, shard);
}

TEST(RectanglesTest, AShardOfAMatrixIsOneRectangle) {
  const TensorSpec tensor = Tensor("w", {8, 6});
  EXPECT_THAT(Rectangles(tensor, Shard(0, {2, 1}, {3, 4})),
              ElementsAre(Rectangle{2, 1, 3, 4, 0, 4}));
}

TEST(RectanglesTest, AnEmptyShardHasNone) {
  const TensorSpec tensor = Tensor("w", {8, 6});
  EXPECT_THAT(Rectangles(tensor, Shard(0, {8, 0}, {0, 6})), ElementsAre());
}

TEST(RectanglesTest, RowsOfEveryExpertAreOneRectangleAnExpert) {
  const TensorSpec tensor = Tensor("experts", {3, 4, 5}, Rule::kMuon, 2);
  EXPECT_THAT(Rectangles(tensor, Shard(0, {0, 1, 0}, {3, 2, 5})),
              ElementsAre(Rectangle{1, 0, 2, 5, 0, 5}, Rectangle{5, 0, 2, 5, 10, 5},
                          Rectangle{9, 0, 2, 5, 20, 5}));
  EXPECT_THAT(Rectangles(tensor, Shard(0, {1, 0, 0}, {2, 4, 5})),
              ElementsAre(Rectangle{4, 0, 8, 5, 0, 5}));
  EXPECT_THAT(Rectangles(tensor, Shard(0, {0, 0, 2}, {3, 4, 3})),
              ElementsAre(Rectangle{0, 2, 12, 3, 0, 3}));
}

TEST(RectanglesTest, AConvolutionCutInsideItsColumnsFallsIntoColumnRuns) {
  const TensorSpec tensor = Tensor("conv", {4, 2, 3});  // view 4 x 6
  EXPECT_THAT(Rectangles(tensor, Shard(0, {1, 0, 1}, {2, 2, 2})),
              ElementsAre(Rectangle{1, 1, 2, 2, 0, 4}, Rectangle{1, 4, 2, 2, 2, 4}));
}

TEST(RectanglesTest, TooManyPiecesAreRefused) {
  const TensorSpec tensor = Tensor("w", {2, 1000, 1000, 2});
  const absl::StatusOr<std::vector<Rectangle>> many =
      RectanglesOf(tensor, Shard(0, {0, 0, 0, 0}, {2, 1000, 1000, 1}));
  EXPECT_THAT(std::string(many.status().message()), HasSubstr("more than 65536 rectangles"));
}

TEST(RectanglesTest, SegmentsClipAndCountRowsFromTheirStart) {
  const TensorSpec tensor = Tensor("w", {10, 3});
  const auto parts = [&](int64_t begin, int64_t end) {
    return *RectanglesInSegment(tensor, Shard(0, {2, 0}, {5, 3}), Segment{0, begin, end});
  };
  EXPECT_THAT(parts(4, 9), ElementsAre(Rectangle{0, 0, 3, 3, 6, 3}));
  EXPECT_THAT(parts(0, 4), ElementsAre(Rectangle{2, 0, 2, 3, 0, 3}));
  EXPECT_THAT(parts(7, 10), ElementsAre());
}

TEST(CoverTest, ReplicasAndRowShardsCover) {
  Manifest manifest = EmptyManifest(4);
  manifest.tensors = {Tensor("w", {9, 6}), Tensor("b", {3}, Rule::kAdamW)};
  EXPECT_TRUE(CheckRanks(manifest, Replicated(manifest)).ok())
      << CheckRanks(manifest, Replicated(manifest));
  EXPECT_TRUE(CheckRanks(manifest, RowSharded(manifest)).ok())
      << CheckRanks(manifest, RowSharded(manifest));
}

std::string CoverError(const Manifest& manifest, const std::vector<RankManifest>& ranks) {
  return std::string(CheckRanks(manifest, ranks).message());
}

TEST(CoverTest, AMissingShardNamesTensorRanksAndCounts) {
  Manifest manifest = EmptyManifest(4);
  manifest.tensors = {Tensor("a", {4, 4}), Tensor("w", {8, 6})};
  std::vector<RankManifest> ranks = RowSharded(manifest);
  ranks[2].shards.pop_back();
  EXPECT_EQ(CoverError(manifest, ranks),
            "tensor 'w': ranks 0, 1, 3 hold 36 of 48 elements, 12 are missing");
  for (RankManifest& rank : ranks) rank.shards.resize(1);
  EXPECT_EQ(CoverError(manifest, ranks),
            "tensor 'w': no rank holds a shard, 48 elements are missing");
}

TEST(CoverTest, OverlappingShardsNameBothRanksAndTheOverlap) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("w", {8, 6})};
  const std::vector<RankManifest> ranks = {{0, {Shard(0, {0, 0}, {5, 6})}},
                                           {1, {Shard(0, {4, 0}, {4, 6})}}};
  EXPECT_THAT(CoverError(manifest, ranks),
              HasSubstr("tensor 'w': shards of rank 0 (offset [0,0], extent [5,6]) and rank 1"));
  EXPECT_THAT(CoverError(manifest, ranks), HasSubstr("overlap in 6 elements"));
}

TEST(CoverTest, EqualCountsDoNotHideAnOverlap) {
  // 24 + 24 elements of 48, but rows 0..3 twice and rows 4..7 never.
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("w", {8, 6})};
  const std::vector<RankManifest> ranks = {{0, {Shard(0, {0, 0}, {4, 6})}},
                                           {1, {Shard(0, {0, 0}, {4, 6})}}};
  EXPECT_THAT(CoverError(manifest, ranks), HasSubstr("overlap in 24 elements"));
}

TEST(CoverTest, APinwheelIsACoverThoughNoStraightCutPartsIt) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("w", {3, 3})};
  std::vector<ShardSpec> pinwheel = {Shard(0, {0, 0}, {1, 2}), Shard(0, {0, 2}, {2, 1}),
                                     Shard(0, {2, 1}, {1, 2}), Shard(0, {1, 0}, {2, 1}),
                                     Shard(0, {1, 1}, {1, 1})};
  EXPECT_EQ(CoverError(manifest, {{0, pinwheel}}), "");
  pinwheel[4] = Shard(0, {1, 1}, {1, 2});
  EXPECT_THAT(CoverError(manifest, {{0, pinwheel}}), HasSubstr("overlap in 1 elements"));
}

TEST(CoverTest, ScalarsAreHeldOnceAReplica) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("scale", {}, Rule::kAdamW)};
  EXPECT_EQ(CoverError(manifest, Replicated(manifest)), "");
  const std::vector<RankManifest> twice = {{0, {Whole(manifest, 0)}}, {1, {Whole(manifest, 0)}}};
  EXPECT_THAT(CoverError(manifest, twice),
              HasSubstr("rank 1 (offset [], extent []) overlap in 1 elements"));
}

TEST(CoverTest, AReplicaThatNobodyHoldsAndRanksThatDisagreeAreRefused) {
  Manifest manifest = EmptyManifest(3);
  manifest.tensors = {Tensor("w", {4, 4})};
  std::vector<RankManifest> ranks = Replicated(manifest);
  ranks[1].shards.clear();
  EXPECT_EQ(CoverError(manifest, ranks),
            "tensor 'w', replica 1 of 3: no rank hold 0 of 16 elements, 16 are missing");
  ranks = Replicated(manifest);
  ranks[2].shards[0].replica_kind = ReplicaKind::kSum;
  EXPECT_THAT(CoverError(manifest, ranks), HasSubstr("rank 0 speaks of 3 replicas (kind 1"));
}

TEST(CoverTest, RanksMustBeAllThereOnce) {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("w", {4, 4})};
  std::vector<RankManifest> ranks = RowSharded(manifest);
  ranks[1].rank = 0;
  EXPECT_THAT(CoverError(manifest, ranks), HasSubstr("rank 0 is given twice"));
  ranks.pop_back();
  EXPECT_THAT(CoverError(manifest, ranks), HasSubstr("1 ranks given, world_size is 2"));
}

TEST(CoverTest, AHundredThousandTensorsOnEightRanksTakeUnderASecondOrTwo) {
  Manifest manifest = EmptyManifest(8);
  for (int t = 0; t < 100'000; ++t)
    manifest.tensors.push_back(Tensor("t" + std::to_string(t), {64, 16}));
  const std::vector<RankManifest> ranks = RowSharded(manifest);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_TRUE(CheckRanks(manifest, ranks).ok());
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  RecordProperty("seconds", std::to_string(seconds));
  EXPECT_LT(seconds, 10) << "generous: sanitizers and busy machines";
}

}  // namespace
}  // namespace muond
