#include "server/keeper/restart_policy.h"

#include <gtest/gtest.h>

namespace muond {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'800'000'000);
constexpr StepperEnd kServed = {
    .served = true, .by_itself = false, .first = false, .slabs_kept = true};
constexpr StepperEnd kDiedAtStart = {
    .served = false, .by_itself = false, .first = false, .slabs_kept = true};

TEST(RestartPolicyTest, OneThatServedIsFollowedAtOnce) {
  RestartPolicy policy;
  const auto decision = policy.Decide(kStart, kServed);
  EXPECT_TRUE(decision.restart);
  EXPECT_EQ(decision.delay, absl::ZeroDuration());
}

TEST(RestartPolicyTest, ManyDeathsInAMinuteSlowDownAndNeverGiveUp) {
  RestartPolicy policy;
  absl::Time now = kStart;
  for (int i = 0; i < RestartPolicy::kQuickRestartsPerMinute; ++i) {
    EXPECT_EQ(policy.Decide(now += absl::Seconds(1), kServed).delay, absl::ZeroDuration()) << i;
  }
  EXPECT_EQ(policy.Decide(now += absl::Seconds(1), kServed).delay, absl::Seconds(1));
  EXPECT_TRUE(policy.Decide(now, kServed).restart);
  EXPECT_EQ(policy.Decide(now += absl::Minutes(2), kServed).delay, absl::ZeroDuration());
}

TEST(RestartPolicyTest, DeathsBeforeServingBackOffAndEnd) {
  RestartPolicy policy;
  for (const int ms : {100, 200, 400, 800, 1600}) {
    const auto decision = policy.Decide(kStart, kDiedAtStart);
    EXPECT_TRUE(decision.restart);
    EXPECT_EQ(decision.delay, absl::Milliseconds(ms));
  }
  EXPECT_FALSE(policy.Decide(kStart, kDiedAtStart).restart);
}

TEST(RestartPolicyTest, ServingOnceForgivesEarlierFailures) {
  RestartPolicy policy;
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(policy.Decide(kStart, kDiedAtStart).restart);
  EXPECT_TRUE(policy.Decide(kStart, kServed).restart);
  EXPECT_EQ(policy.failures_in_a_row(), 0);
  EXPECT_TRUE(policy.Decide(kStart, kDiedAtStart).restart);
}

TEST(RestartPolicyTest, AFirstStartThatFailsByItselfIsFinalUnlessSlabsAreAtStake) {
  StepperEnd end = {.served = false, .by_itself = true, .first = true, .slabs_kept = false};
  EXPECT_FALSE(RestartPolicy().Decide(kStart, end).restart);
  end.slabs_kept = true;
  EXPECT_TRUE(RestartPolicy().Decide(kStart, end).restart);
}

}  // namespace
}  // namespace muond
