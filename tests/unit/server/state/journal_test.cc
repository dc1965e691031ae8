#include "server/state/journal.h"

#include <gtest/gtest.h>

#include <vector>

namespace muond {
namespace {

class JournalTest : public ::testing::Test {
 protected:
  JournalTest()
      : layout_(*StateLayout::Lay(
            std::vector<ItemNeed>(5, NeedOf(StateRule::kMuon, 0, {{4, 4, 4}})), 1)) {
    journal_.Format(77, 1, layout_);
  }
  StateLayout layout_;
  std::vector<uint64_t> memory_ = std::vector<uint64_t>(Journal::SizeBytes(5) / 8);
  Journal journal_{memory_.data(), 5};
};

TEST_F(JournalTest, AFreshJournalHasEveryItemInItsFirstSlotAndNoVerdict) {
  for (uint32_t item = 0; item < 5; ++item) EXPECT_EQ(journal_.word(item), (ItemWord{0, item, 0}));
  EXPECT_FALSE(journal_.newest_verdict().has_value());
  EXPECT_TRUE(journal_.Check(77).ok());
}

TEST_F(JournalTest, TheNewestOfTwoVerdictsIsTheLaterStep) {
  journal_.Record({4, VerdictKind::kGo, 0.25, 0, 0});
  journal_.Record({5, VerdictKind::kVoid, 1, 3, 9});
  ASSERT_TRUE(journal_.newest_verdict().has_value());
  EXPECT_EQ(journal_.newest_verdict()->step, 5u);
  EXPECT_EQ(journal_.newest_verdict()->reason, 3u);
  EXPECT_EQ(journal_.newest_verdict()->detail, 9u);
  EXPECT_EQ(journal_.verdict(4)->clip_factor, 0.25);
  journal_.Record({6, VerdictKind::kGo, 1, 0, 0});
  EXPECT_FALSE(journal_.verdict(4).has_value());
  EXPECT_EQ(journal_.newest_verdict()->step, 6u);
}

TEST_F(JournalTest, ACopyHoldsWordsAndVerdictsOfTheOlderPage) {
  journal_.Record({4, VerdictKind::kGo, 0.5, 0, 0});
  journal_.word_cell(3).store(ItemWord{4, 5, 0}.Pack());
  std::vector<uint64_t> memory(memory_.size());
  Journal copy(memory.data(), 5);
  copy.CopyFrom(journal_);
  EXPECT_TRUE(copy.Check(77).ok());
  EXPECT_EQ(copy.word(3), (ItemWord{4, 5, 0}));
  EXPECT_EQ(copy.newest_verdict()->clip_factor, 0.5);
}

TEST_F(JournalTest, APageOfAnotherJobOrSizeIsDataLoss) {
  EXPECT_EQ(journal_.Check(78).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Journal(memory_.data(), 4).Check(77).code(), absl::StatusCode::kDataLoss);
  memory_[0] = 0;
  EXPECT_EQ(journal_.Check(77).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace muond
