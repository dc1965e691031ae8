#include "server/peer/item_courier.h"

#include "gtest/gtest.h"

namespace muond {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

TEST(ItemCourierTest, WhatIsAcknowledgedIsNotSentAgain) {
  ItemCourier courier(2, 0, 3);
  courier.LinkUp(1);
  courier.Filled(2, 1);
  const auto put = courier.Next(1);
  ASSERT_TRUE(put.has_value());
  EXPECT_EQ(put->item, 2u);
  EXPECT_EQ(put->step, 1u);
  EXPECT_FALSE(courier.Next(1).has_value());
  EXPECT_EQ(courier.PutDone(1, 2, true, kNow), 1u);
  EXPECT_FALSE(courier.AllAcked(1));
  courier.Acked(1, 2, 1);
  EXPECT_TRUE(courier.AllAcked(1));
  courier.Deadline(kNow + absl::Hours(1));
  EXPECT_FALSE(courier.Next(1).has_value());
  EXPECT_EQ(courier.on_the_way(1), 0u);
}

TEST(ItemCourierTest, NothingGoesToAMemberWithoutALinkAndAllOfItWhenTheLinkIsNew) {
  ItemCourier courier(2, 1, 2);
  courier.Filled(0, 1);
  courier.Filled(1, 1);
  EXPECT_FALSE(courier.Next(0).has_value());
  courier.LinkUp(0);
  ASSERT_EQ(courier.Next(0)->item, 0u);
  ASSERT_EQ(courier.PutDone(0, 0, true, kNow), 1u);
  courier.Acked(0, 0, 1);
  ASSERT_EQ(courier.Next(0)->item, 1u);
  courier.LinkDown(0);
  EXPECT_EQ(courier.PutDone(0, 1, false, kNow), 0u);  // of the old link
  courier.LinkUp(0);
  const auto again = courier.Next(0);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->item, 1u);
  EXPECT_FALSE(courier.Next(0).has_value());
}

TEST(ItemCourierTest, WhatIsNotAnsweredInTimeIsPutAgain) {
  ItemCourier courier(3, 0, 1);
  courier.LinkUp(2);
  courier.Filled(0, 4);
  ASSERT_TRUE(courier.Next(2).has_value());
  ASSERT_EQ(courier.PutDone(2, 0, true, kNow), 4u);
  courier.Deadline(kNow + ItemCourier::kAnswerWithin / 2);
  EXPECT_FALSE(courier.Next(2).has_value());
  courier.Deadline(kNow + ItemCourier::kAnswerWithin);
  EXPECT_TRUE(courier.Next(2).has_value());
  EXPECT_FALSE(courier.Next(1).has_value());
}

TEST(ItemCourierTest, APutThatANewerStepOvertakesIsPutAgainInsteadOfAnnounced) {
  ItemCourier courier(2, 0, 1);
  courier.LinkUp(1);
  courier.Filled(0, 1);
  ASSERT_TRUE(courier.Next(1).has_value());
  courier.Filled(0, 2);
  EXPECT_EQ(courier.PutDone(1, 0, true, kNow), 0u);
  const auto put = courier.Next(1);
  ASSERT_TRUE(put.has_value());
  EXPECT_EQ(put->step, 2u);
}

TEST(ItemCourierTest, OnlySoManyAreOnTheWay) {
  ItemCourier courier(2, 0, 2 * ItemCourier::kOnTheWayMax);
  courier.LinkUp(1);
  for (uint32_t item = 0; item < 2 * ItemCourier::kOnTheWayMax; ++item) courier.Filled(item, 1);
  uint32_t started = 0;
  while (courier.Next(1)) ++started;
  EXPECT_EQ(started, ItemCourier::kOnTheWayMax);
  ASSERT_EQ(courier.PutDone(1, 0, true, kNow), 1u);
  EXPECT_FALSE(courier.Next(1).has_value());  // said, and not answered
  courier.Acked(1, 0, 1);
  EXPECT_TRUE(courier.Next(1).has_value());
}

}  // namespace
}  // namespace muond
