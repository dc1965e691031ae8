#include "server/schedule/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muond {
namespace {

using ::testing::ElementsAre;

uint32_t NoLimit(uint64_t, uint32_t) { return 1000; }

std::vector<ScheduledItem> Items(std::vector<ScheduledItem> items) {
  SortForStep(items);
  return items;
}

TEST(SchedulerTest, TheCostliestShapeGoesFirstAndItsItemsGoTogether) {
  Scheduler scheduler(1);
  scheduler.AddJob(1);
  scheduler.Enqueue(0, 1, Items({{0, 5, 0.001}, {1, 6, 0.004}, {2, 5, 0.001}, {3, 6, 0.004}}));
  ScheduledGroup group;
  ASSERT_TRUE(scheduler.Next(0, NoLimit, &group));
  EXPECT_THAT(group.items, ElementsAre(1, 3));
  ASSERT_TRUE(scheduler.Next(0, NoLimit, &group));
  EXPECT_THAT(group.items, ElementsAre(0, 2));
  EXPECT_FALSE(scheduler.Next(0, NoLimit, &group));
}

TEST(SchedulerTest, AGroupReachesAsFarAsTheLimit) {
  Scheduler scheduler(1);
  scheduler.AddJob(1);
  scheduler.Enqueue(0, 1, Items({{0, 5, 0.001}, {1, 5, 0.001}, {2, 5, 0.001}}));
  ScheduledGroup group;
  const auto two = [](uint64_t, uint32_t) -> uint32_t { return 2; };
  ASSERT_TRUE(scheduler.Next(0, two, &group));
  EXPECT_THAT(group.items, ElementsAre(0, 1));
  const auto none = [](uint64_t, uint32_t) -> uint32_t { return 0; };
  ASSERT_TRUE(scheduler.Next(0, none, &group))
      << "one always goes: in stream order its slot comes free";
  EXPECT_THAT(group.items, ElementsAre(2));
}

TEST(SchedulerTest, ALongStepIsFedInPortions) {
  Scheduler scheduler(1);
  scheduler.AddJob(1);
  std::vector<ScheduledItem> items;
  for (uint32_t i = 0; i < 10; ++i) items.push_back({i, i, 0.015});
  scheduler.Enqueue(0, 1, Items(items));
  ScheduledGroup group;
  int started = 0;
  while (scheduler.Next(0, NoLimit, &group)) ++started;
  EXPECT_EQ(started, 2);
  scheduler.Finished(0, 0.015);
  EXPECT_TRUE(scheduler.Next(0, NoLimit, &group));
  EXPECT_FALSE(scheduler.Idle(0));
}

TEST(SchedulerTest, JobsTakeTurnsByTheTimeTheyHaveHad) {
  Scheduler scheduler(1);
  scheduler.AddJob(1);
  scheduler.AddJob(2);
  std::vector<ScheduledItem> large, small;
  for (uint32_t i = 0; i < 3; ++i) large.push_back({i, i, 0.030});
  for (uint32_t i = 0; i < 9; ++i) small.push_back({i, i, 0.010});
  scheduler.Enqueue(0, 1, Items(large));
  scheduler.Enqueue(0, 2, Items(small));
  std::vector<uint64_t> order;
  ScheduledGroup group;
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE(scheduler.Next(0, NoLimit, &group));
    order.push_back(group.job);
    scheduler.Finished(0, group.cost_seconds);
  }
  EXPECT_THAT(order, ElementsAre(1, 2, 2, 2, 1, 2, 2, 2, 1, 2, 2, 2));
  EXPECT_TRUE(scheduler.Idle(0));
}

TEST(SchedulerTest, ARemovedJobsQueueIsForgotten) {
  Scheduler scheduler(2);
  scheduler.AddJob(1);
  scheduler.Enqueue(1, 1, Items({{0, 0, 1}}));
  scheduler.RemoveJob(1);
  ScheduledGroup group;
  EXPECT_FALSE(scheduler.Next(1, NoLimit, &group));
  EXPECT_TRUE(scheduler.Idle(1));
}

}  // namespace
}  // namespace muond
