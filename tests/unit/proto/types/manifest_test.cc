#include "proto/types/manifest.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/types/limits.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Shard;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

Manifest Good() {
  Manifest manifest = EmptyManifest(2);
  manifest.tensors = {Tensor("w", {8, 6}), Tensor("experts", {3, 4, 5}, Rule::kMuon, 2),
                      Tensor("bias", {7}, Rule::kAdamW), Tensor("scale", {}, Rule::kAdamW)};
  manifest.tensors[1].matrix_rows = {4, 4, 4};
  return manifest;
}

std::string ErrorOf(const Manifest& manifest) { return std::string(Validate(manifest).message()); }

TEST(ManifestTest, TheGoodOneIsTaken) { EXPECT_TRUE(Validate(Good()).ok()) << Validate(Good()); }

TEST(ManifestTest, ViewsFoldTheRowDimensions) {
  const Manifest manifest = Good();
  EXPECT_EQ(ViewOf(manifest.tensors[1]).rows, 12);
  EXPECT_EQ(ViewOf(manifest.tensors[1]).cols, 5);
  EXPECT_EQ(ViewOf(manifest.tensors[2]).rows, 7);
  EXPECT_EQ(ViewOf(manifest.tensors[2]).cols, 1);
  EXPECT_EQ(ElementsOf(manifest.tensors[3]), 1);
}

TEST(ManifestTest, AManifestOfTwoToTheFortyElementsIsRefusedWithItsCount) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("huge", {int64_t{1} << 20, int64_t{1} << 20})};
  EXPECT_THAT(ErrorOf(manifest),
              HasSubstr("tensor 0 'huge': shape [1048576,1048576] has more than 68719476736"));
  manifest.tensors.assign(16, Tensor("part", {int64_t{1} << 18, int64_t{1} << 18}));
  EXPECT_THAT(ErrorOf(manifest),
              HasSubstr("1099511627776 elements in 16 tensors, the limit is 1099511627775"));
}

TEST(ManifestTest, ElementCountsThatOverflowAreRefusedNotWrapped) {
  Manifest manifest = EmptyManifest(1);
  const int64_t big = std::numeric_limits<int64_t>::max();
  manifest.tensors = {Tensor("w", {big, big, 3})};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("has more than"));
  manifest.tensors = {
      Tensor("w", {int64_t{1} << 32, int64_t{1} << 32})};  // 2^64: zero when it wraps
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("has more than"));
}

TEST(ManifestTest, EachRefusalNamesTheTensorAndTheNumbers) {
  Manifest manifest = Good();
  manifest.tensors[0].shape = {8, 0};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("tensor 0 'w': shape [8,0] has a dimension of 0"));
  manifest = Good();
  manifest.tensors[0].group = 2;
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("tensor 0 'w': group: 2, allowed are 0 to 1"));
  manifest = Good();
  manifest.tensors[2].bucket = 1;
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("tensor 2 'bias': bucket: 1, allowed are 0 to 0"));
  manifest = Good();
  manifest.tensors[1].matrix_rows = {4, 4, 5};
  EXPECT_THAT(ErrorOf(manifest),
              HasSubstr("matrix_rows holds 5 with 4 of the view's 12 rows left"));
  manifest = Good();
  manifest.tensors[1].matrix_rows = {4, 4};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("matrix_rows sum to 8, the view has 12 rows"));
  manifest = Good();
  manifest.tensors[0].row_dims = 3;
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("row_dims: 3, allowed are 0 to 2"));
  manifest = Good();
  manifest.tensors[0].shape.assign(9, 1);
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("dimensions: 9, allowed are 0 to 8"));
  manifest = Good();
  manifest.tensors[0].name.clear();
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("bytes of its name: 0"));
  manifest = Good();
  manifest.tensors[0].parameter_type = static_cast<DType>(9);
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("unknown element type 9"));
  manifest = Good();
  manifest.tensors[2].matrix_rows = {7};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("matrix_rows outside a muon group"));
}

TEST(ManifestTest, JobsAndGroupsHaveTheirLimits) {
  Manifest manifest = Good();
  manifest.job.clear();
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("the job's name: 0, allowed are 1 to 128"));
  manifest = Good();
  manifest.world_size = static_cast<int32_t>(kRanksMax + 1);
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("world_size: 16385, allowed are 1 to 16384"));
  manifest = Good();
  manifest.groups[0].steps = 100;
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("Newton-Schulz steps: 100, allowed are 0 to 99"));
  manifest = Good();
  manifest.groups[0].table = "custom";
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("table 'custom' with 0 custom steps"));
  manifest.groups[0].custom_steps = {{1, std::numeric_limits<double>::quiet_NaN(), 0}};
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("not finite"));
  manifest = Good();
  manifest.groups[0].rule = static_cast<Rule>(0);
  EXPECT_THAT(ErrorOf(manifest), HasSubstr("unknown rule 0"));
}

TEST(RankManifestTest, ShardsMustLieInsideTheirTensor) {
  const Manifest manifest = Good();
  const auto error = [&](ShardSpec shard) {
    return std::string(Validate(manifest, RankManifest{1, {std::move(shard)}}).message());
  };
  EXPECT_EQ(error(Shard(0, {4, 0}, {4, 6})), "");
  EXPECT_EQ(error(Shard(0, {8, 0}, {0, 6})), "");  // an empty shard at the end
  EXPECT_THAT(error(Shard(4, {0}, {1})),
              HasSubstr("rank 1, block 0: tensor 4, the manifest has 4"));
  EXPECT_THAT(error(Shard(0, {4, 0}, {5, 6})),
              HasSubstr("dimension 0, offset 4 and extent 5 in a side of 8"));
  EXPECT_THAT(error(Shard(0, {0}, {8})), HasSubstr("1 offsets and 1 extents for 2 dimensions"));
  const int64_t big = std::numeric_limits<int64_t>::max();
  EXPECT_THAT(error(Shard(0, {4, 0}, {big, 6})), HasSubstr("in a side of 8"));
  ShardSpec shard = Shard(0, {0, 0}, {8, 6});
  shard.replica = 2;
  shard.replicas = 2;
  EXPECT_THAT(error(shard), HasSubstr("replica 2 of 2"));
  shard.replica = 0;
  shard.replica_kind = ReplicaKind::kSum;
  shard.divisor = 0;
  EXPECT_THAT(error(shard), HasSubstr("divisor 0"));
  EXPECT_THAT(std::string(Validate(manifest, RankManifest{2, {}}).message()),
              HasSubstr("rank 2 of a world of 2"));
}

TEST(ManifestTest, DigestAndDifferenceSeeEveryField) {
  const Manifest good = Good();
  EXPECT_EQ(DigestOf(good), DigestOf(Good()));
  EXPECT_EQ(FirstDifference(good, Good()), "");
  std::vector<std::pair<Manifest, std::string>> others(12, {good, ""});
  size_t i = 0;
  auto vary = [&](auto edit, std::string text) {
    edit(others[i].first);
    others[i++].second = std::move(text);
  };
  vary([](Manifest& m) { m.job = "jab"; }, "job 'job' against 'jab'");
  vary([](Manifest& m) { m.world_size = 3; }, "world_size 2 against 3");
  vary([](Manifest& m) { m.buckets = 4; }, "1 buckets against 4");
  vary([](Manifest& m) { m.tensors.pop_back(); }, "4 tensors against 3");
  vary([](Manifest& m) { m.groups[0].steps = 6; }, "group 0 'muon': 0 steps against 6");
  vary([](Manifest& m) { m.groups[0].update_scale = UpdateScale::kNone; },
       "update scale 1 against 5");
  vary([](Manifest& m) { m.tensors[0].shape = {6, 8}; }, "tensor 0 'w': shape [8,6] against [6,8]");
  vary([](Manifest& m) { m.tensors[0].name = "v"; }, "name 'w' against 'v'");
  vary([](Manifest& m) { m.tensors[2].gradient_type = DType::kBFloat16; },
       "element types 1, 1 against 1, 2");
  vary([](Manifest& m) { m.tensors[1].matrix_rows = {6, 6}; }, "3 matrices against 2");
  vary([](Manifest& m) { m.tensors[1].row_dims = 1; }, "row_dims 2 against 1");
  vary([](Manifest& m) { m.tensors[3].group = 0; }, "group 1 against 0");
  for (const auto& [other, text] : others) {
    EXPECT_NE(DigestOf(good), DigestOf(other)) << text;
    EXPECT_THAT(FirstDifference(good, other), HasSubstr(text));
  }
}

}  // namespace
}  // namespace muond
