#include "server/gather/gatherer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muond {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Two ranks, two buckets; item 0 of both ranks' bucket 0, item 1 of rank 1's buckets 0 and 1.
Gatherer Small() {
  return Gatherer(2, 2, 2,
                  std::vector<ItemSource>{{0, 0, 0}, {0, 1, 0}, {1, 1, 0}, {1, 1, 1}, {1, 1, 1}});
}

TEST(GathererTest, AnItemIsWholeOnlyWhenItsLastBlockIsAnnounced) {
  Gatherer gatherer = Small();
  gatherer.Begin(1);
  std::vector<uint32_t> whole;
  EXPECT_EQ(gatherer.Announce(0, 0, PackAnnouncement(1, 0), &whole), AnnouncementTaken::kNew);
  EXPECT_THAT(whole, IsEmpty());
  gatherer.Announce(1, 0, PackAnnouncement(1, 0), &whole);
  EXPECT_THAT(whole, ElementsAre(0));
  gatherer.Announce(1, 1, PackAnnouncement(1, 0), &whole);
  EXPECT_THAT(whole, ElementsAre(0, 1));
}

TEST(GathererTest, ARepeatOrAnotherStepChangesNothing) {
  Gatherer gatherer = Small();
  gatherer.Begin(5);
  std::vector<uint32_t> whole;
  gatherer.Announce(1, 1, PackAnnouncement(5, 2), &whole);
  EXPECT_EQ(gatherer.Announce(1, 1, PackAnnouncement(5, 2), &whole), AnnouncementTaken::kRepeat);
  EXPECT_EQ(gatherer.Announce(1, 1, PackAnnouncement(5, 1), &whole), AnnouncementTaken::kRepeat);
  EXPECT_EQ(gatherer.Announce(1, 0, PackAnnouncement(4, 0), &whole), AnnouncementTaken::kOtherStep);
  EXPECT_EQ(gatherer.Announce(1, 0, PackAnnouncement(6, 0), &whole), AnnouncementTaken::kOtherStep);
  EXPECT_EQ(gatherer.attempt(1, 1), 2u);
  EXPECT_THAT(whole, IsEmpty());
}

TEST(GathererTest, ALaterAttemptMakesTheItemsOfItsBucketNew) {
  Gatherer gatherer = Small();
  gatherer.Begin(1);
  std::vector<uint32_t> whole;
  for (uint32_t bucket : {0u, 1u}) gatherer.Announce(1, bucket, PackAnnouncement(1, 0), &whole);
  EXPECT_THAT(whole, ElementsAre(1));
  EXPECT_EQ(gatherer.Announce(1, 1, PackAnnouncement(1, 1), &whole),
            AnnouncementTaken::kSuperseded);
  EXPECT_THAT(whole, ElementsAre(1, 1));
  EXPECT_EQ(gatherer.generation(1), 1u);
  EXPECT_EQ(gatherer.generation(0), 0u);
}

TEST(GathererTest, ANewStepForgetsTheAnnouncementsOfTheOld) {
  Gatherer gatherer = Small();
  gatherer.Begin(1);
  std::vector<uint32_t> whole;
  for (uint32_t rank : {0u, 1u}) gatherer.Announce(rank, 0, PackAnnouncement(1, 0), &whole);
  EXPECT_TRUE(gatherer.whole(0));
  gatherer.Begin(2);
  EXPECT_FALSE(gatherer.whole(0));
  EXPECT_FALSE(gatherer.announced(0, 0));
}

}  // namespace
}  // namespace muond
