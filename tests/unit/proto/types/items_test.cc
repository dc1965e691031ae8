#include "proto/types/items.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/types/limits.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Tensor;
using ::testing::ElementsAre;

TEST(ItemsTest, AMatrixIsAnItemAndAStackIsOneItemAMatrix) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("norm", {4}, Rule::kAdamW), Tensor("w", {8, 6}),
                      Tensor("e", {3, 4, 5}, Rule::kMuon, 2)};
  manifest.tensors[2].matrix_rows = {4, 4, 4};
  const std::vector<PlanItem> items = *ItemsOf(manifest);
  ASSERT_EQ(items.size(), 5u);
  EXPECT_THAT(items[0].segments, ElementsAre(Segment{1, 0, 8}));
  EXPECT_THAT(items[2].segments, ElementsAre(Segment{2, 4, 8}));
  EXPECT_EQ(items[4].rule, Rule::kAdamW);
  EXPECT_THAT(items[4].segments, ElementsAre(Segment{0, 0, 4}));
}

TEST(ItemsTest, ChunksAreAnEighthOfTheAdamWElementsWithinTheirBounds) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {
      Tensor("e", {50'000, 64}, Rule::kAdamW)};  // 3.2 M elements: chunks of 400 000, 6250 rows
  EXPECT_EQ(ChunkElements(manifest), 400'000);
  const std::vector<PlanItem> items = *ItemsOf(manifest);
  EXPECT_EQ(items.size(), 8u);
  EXPECT_THAT(items[1].segments, ElementsAre(Segment{0, 6250, 12'500}));
  manifest.tensors = {Tensor("e", {10, 64}, Rule::kAdamW)};
  EXPECT_EQ(ChunkElements(manifest), 65'536);
  manifest.tensors = {Tensor("e", {1 << 20, 1024}, Rule::kAdamW)};
  EXPECT_EQ(ChunkElements(manifest), 8 << 20);
}

TEST(ItemsTest, ManyVectorsShareAChunkAndARowLongerThanAChunkIsItsOwn) {
  Manifest manifest = EmptyManifest(1);
  for (int i = 0; i < 10; ++i)
    manifest.tensors.push_back(Tensor("n" + std::to_string(i), {100}, Rule::kAdamW));
  EXPECT_EQ(ItemsOf(manifest)->size(), 1u);
  manifest.tensors.push_back(Tensor("long", {1, 100'000}, Rule::kAdamW));
  manifest.tensors.push_back(Tensor("after", {10}, Rule::kAdamW));
  const std::vector<PlanItem> items = *ItemsOf(manifest);
  ASSERT_EQ(items.size(), 3u);
  EXPECT_THAT(items[1].segments, ElementsAre(Segment{10, 0, 1}));
}

TEST(ItemsTest, TooManyMatricesAreRefusedBeforeTheyAreMade) {
  Manifest manifest = EmptyManifest(1);
  for (int i = 0; i < 17; ++i) {
    manifest.tensors.push_back(Tensor("e" + std::to_string(i), {65'536, 2, 2}, Rule::kMuon, 2));
    manifest.tensors.back().matrix_rows.assign(65'536, 2);
  }
  EXPECT_THAT(std::string(ItemsOf(manifest).status().message()),
              ::testing::HasSubstr("1114112 muon matrices, the limit is 1048576 items"));
}

}  // namespace
}  // namespace muond
