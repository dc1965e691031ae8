#include "client/core/step_book.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

class StepBookTest : public ::testing::Test {
 protected:
  StepBookTest() {
    manifest_ = testing::EmptyManifest(1);
    manifest_.tensors = {testing::Tensor("first", {2, 2}), testing::Tensor("second", {4, 2})};
    manifest_.tensors[1].bucket = 1;
    manifest_.buckets = 2;
    for (int32_t t = 0; t < 2; ++t) {
      rank_.shards.push_back(testing::Whole(manifest_, t));
      places_.push_back({ElementsOf(manifest_.tensors[t]) * 4ull, 0, 0, true});
    }
    book_ = std::make_unique<StepBook>(manifest_, rank_, places_);
    settings_.groups.resize(2);
  }
  Manifest manifest_;
  RankManifest rank_;
  std::vector<ShardInSlab> places_;
  std::unique_ptr<StepBook> book_;
  StepSettings settings_;
};

TEST_F(StepBookTest, OnlyTensorsThatWerePutAreInTheStep) {
  ASSERT_TRUE(book_->MayPut(1, 32).ok());
  book_->DidPut(1, 99);
  EXPECT_EQ(book_->present()[0], 2u);
  EXPECT_EQ(book_->digests()[1], 99u);
  book_->Begin(2);
  EXPECT_EQ(book_->present()[0], 0u);
  EXPECT_EQ(book_->digests()[1], 0u);
}

TEST_F(StepBookTest, APutIsRefusedWithNameAndSizesAndChangesNothing) {
  EXPECT_THAT(std::string(book_->MayPut(1, 16).message()), HasSubstr("second has 16 bytes"));
  EXPECT_THAT(std::string(book_->MayPut(1, 16).message()), HasSubstr("32"));
  EXPECT_FALSE(book_->MayPut(2, 16).ok());
  EXPECT_FALSE(book_->MayPut(-1, 16).ok());
  EXPECT_EQ(book_->present()[0], 0u);
}

TEST_F(StepBookTest, NothingIsPutIntoABucketThatWasAnnounced) {
  book_->DidAnnounce(0);
  EXPECT_EQ(book_->MayPut(0, 16).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(book_->MayPut(1, 32).ok());
}

TEST_F(StepBookTest, ACommittedStepIsWaitedForBeforeTheNext) {
  EXPECT_EQ(book_->MayWait().code(), absl::StatusCode::kFailedPrecondition);
  book_->DidCommit();
  EXPECT_TRUE(book_->MayWait().ok());
  EXPECT_EQ(book_->MayPut(0, 16).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(book_->MayAnnounce(0).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(book_->MayCommit(settings_).code(), absl::StatusCode::kFailedPrecondition);
  book_->Begin(2);
  EXPECT_TRUE(book_->MayCommit(settings_).ok());
}

TEST_F(StepBookTest, SettingsThatCannotBeAreRefusedWithTheirValues) {
  settings_.groups[1].lr = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(std::string(book_->MayCommit(settings_).message()), HasSubstr("adamw"));
  settings_.groups[1].lr = 0;
  settings_.loss_scale = 0;
  EXPECT_THAT(std::string(book_->MayCommit(settings_).message()), HasSubstr("loss scale"));
  settings_.loss_scale = 1;
  settings_.clip_norm = -2;
  EXPECT_THAT(std::string(book_->MayCommit(settings_).message()), HasSubstr("-2"));
  settings_.clip_norm = 0;
  settings_.groups.resize(1);
  EXPECT_THAT(std::string(book_->MayCommit(settings_).message()), HasSubstr("job has 2"));
}

}  // namespace
}  // namespace muond
