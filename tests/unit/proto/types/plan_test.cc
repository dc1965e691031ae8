#include "proto/types/plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/types/items.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

Manifest Job() {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("w", {8, 6}), Tensor("b", {8}, Rule::kAdamW)};
  return manifest;
}

Plan GoodPlan() {
  Plan plan;
  plan.epoch = 1;
  plan.devices.resize(2);
  plan.items = *ItemsOf(Job());
  plan.items[1].owner = 1;
  plan.device_cost_seconds = {1, 1};
  return plan;
}

std::string ErrorOf(const Plan& plan) { return std::string(Validate(Job(), plan).message()); }

TEST(PlanTest, TheGoodOneIsTaken) { EXPECT_EQ(ErrorOf(GoodPlan()), ""); }

TEST(PlanTest, RowsHeldTwiceOrNeverAreRefused) {
  Plan plan = GoodPlan();
  plan.items[0].segments[0].row_end = 7;
  EXPECT_EQ(ErrorOf(plan), "plan: tensor 'w': items hold 7 of 8 rows");
  plan = GoodPlan();
  plan.items.push_back(plan.items[0]);
  EXPECT_THAT(ErrorOf(plan), HasSubstr("starts at row 0, expected was row 8"));
  plan = GoodPlan();
  plan.items.pop_back();
  EXPECT_EQ(ErrorOf(plan), "plan: tensor 'b': items hold 0 of 8 rows");
}

TEST(PlanTest, OwnersEpochsAndRulesAreChecked) {
  Plan plan = GoodPlan();
  plan.items[0].owner = 2;
  EXPECT_EQ(ErrorOf(plan), "plan: item 0 has owner 2, there are 2 devices");
  plan = GoodPlan();
  plan.epoch = uint64_t{1} << 32;
  EXPECT_THAT(ErrorOf(plan), HasSubstr("epoch 4294967296"));
  plan = GoodPlan();
  plan.items[0].rule = Rule::kAdamW;
  EXPECT_THAT(ErrorOf(plan), HasSubstr("item 0 has another rule than tensor 'w'"));
  plan = GoodPlan();
  plan.devices[1].memory_free_bytes = 5;
  EXPECT_THAT(ErrorOf(plan), HasSubstr("5 bytes free of 0"));
}

}  // namespace
}  // namespace muond
