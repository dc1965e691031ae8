#include "server/gather/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace muond {
namespace {

using ::testing::HasSubstr;

// Two ranks, one group, three tensors: 0 "a" equal replicas, 1 "b" equal replicas, 2 "c" summed
// with divisor 2.
class VerdictTest : public ::testing::Test {
 protected:
  VerdictTest() : memory_(*JobPage::SizeBytes(kShape) / 8), page_(memory_.data(), kShape) {
    for (uint32_t t = 0; t < 3; ++t) {
      GatheredTensor tensor;
      tensor.same = t < 2;
      tensor.divisor = tensor.same ? 1 : 2;
      tensor.replicas = {{{{0, t}}}, {{{1, t}}}};
      tensors_.push_back(tensor);
      runs_.push_back({t, 100, &measurements_[t]});
    }
    for (uint32_t rank = 0; rank < 2; ++rank) {
      SheetHeader& sheet = page_.sheet(rank, kStep);
      sheet.step = kStep;
      sheet.epoch = 4;
      sheet.incarnation = 1;
      sheet.loss_scale = 1;
      page_.groups(rank, kStep)[0] = {0.02, 0.1, 0.95, 1e-7, 0.9, 0.999, 1};
      *page_.present(rank, kStep) = 0b111;
    }
  }
  VerdictInput Input() const { return {&page_, 2, 1, kStep, 4, 1, tensors_, names_, runs_}; }
  Verdict Judged() {
    Verdict verdict;
    if (!Judge::Sheets(Input(), &verdict) || !Judge::Presence(Input(), &presence_, &verdict))
      return verdict;
    return Judge::Decide(Input(), presence_);
  }
  void SetPresent(uint32_t rank, uint64_t bits) { *page_.present(rank, kStep) = bits; }

  static constexpr uint64_t kStep = 9;
  static constexpr PageShape kShape{2, 1, 3, 1, 3, 3};
  std::vector<uint64_t> memory_;
  JobPage page_;
  std::vector<GatheredTensor> tensors_;
  std::vector<std::string> names_ = {"a", "b", "c"};
  Measurement measurements_[3];
  std::vector<MeasuredRun> runs_;
  std::vector<uint8_t> presence_;
};

TEST_F(VerdictTest, EqualSheetsAndFiniteGradientsAreAGoWithoutClipping) {
  const Verdict verdict = Judged();
  EXPECT_TRUE(verdict.go) << verdict.text;
  EXPECT_EQ(verdict.clip_factor, 1);
}

TEST_F(VerdictTest, TheFirstFieldThatDiffersIsNamedWithBothValues) {
  page_.groups(1, kStep)[0].weight_decay = 0.2;
  const Verdict verdict = Judged();
  EXPECT_FALSE(verdict.go);
  EXPECT_EQ(verdict.reason, VoidReason::kSheetsDiffer);
  EXPECT_EQ(verdict.detail, static_cast<uint32_t>(SheetField::kGroupScalars) + 1);
  EXPECT_THAT(verdict.text, HasSubstr("ranks 0 and 1 disagree on group 0 weight_decay: 0.1"));
}

TEST_F(VerdictTest, ASheetOfAnotherEpochVoidsTheStep) {
  page_.sheet(1, kStep).epoch = 3;
  EXPECT_THAT(Judged().text, HasSubstr("rank 1 filled its sheet under epoch 3, the plan's is 4"));
}

TEST_F(VerdictTest, AnInfOfOneRankIsFoundInf) {
  page_.sheet(1, kStep).found_inf = 1;
  EXPECT_EQ(Judged().reason, VoidReason::kFoundInf);
}

TEST_F(VerdictTest, ALossScaleThatCannotBeDividedByVoidsTheStep) {
  for (const double scale : {0.0, -1.0, std::nan("")}) {
    for (uint32_t rank = 0; rank < 2; ++rank) page_.sheet(rank, kStep).loss_scale = scale;
    EXPECT_EQ(Judged().reason, VoidReason::kNonFinite);
  }
}

TEST_F(VerdictTest, AGradientOnOneEqualReplicaOnlyIsNotWhole) {
  SetPresent(1, 0b101);
  const Verdict verdict = Judged();
  EXPECT_EQ(verdict.reason, VoidReason::kNotWhole);
  EXPECT_EQ(verdict.detail, 1u);
}

TEST_F(VerdictTest, ASummedReplicaWithoutGradientIsPartlyPresent) {
  SetPresent(1, 0b011);
  EXPECT_TRUE(Judged().go);
  EXPECT_EQ(presence_[2], kPartlyPresent);
  SetPresent(0, 0b011);
  EXPECT_TRUE(Judged().go);
  EXPECT_EQ(presence_[2], kAbsent);
}

TEST_F(VerdictTest, EqualReplicasWithDifferentDigestsNameTheTensor) {
  page_.digests(0, kStep)[1] = 5;
  page_.digests(1, kStep)[1] = 6;
  page_.digests(1, kStep)[2] = 7;  // summed: not compared
  const Verdict verdict = Judged();
  EXPECT_EQ(verdict.reason, VoidReason::kReplicasDiffer);
  EXPECT_EQ(verdict.detail, 1u);
}

TEST_F(VerdictTest, TheLowestTensorWithNaNIsNamedUnlessItIsAbsent) {
  measurements_[1].non_finite = 3;
  measurements_[2].non_finite = 1;
  EXPECT_EQ(Judged().detail, 1u);
  EXPECT_THAT(Judged().text, HasSubstr("tensor 'b' has 3 NaN or Inf gradients (of 100"));
  SetPresent(0, 0b101);
  SetPresent(1, 0b101);
  EXPECT_EQ(Judged().detail, 2u);
}

TEST_F(VerdictTest, TheClipNormCountsDivisorsAndLossScale) {
  for (uint32_t rank = 0; rank < 2; ++rank) {
    page_.sheet(rank, kStep).clip_norm = 1;
    page_.sheet(rank, kStep).loss_scale = 4;
  }
  measurements_[0].sum_of_squares.AddSquare(12);
  measurements_[2].sum_of_squares.AddSquare(32);  // divided by 2
  const Verdict verdict = Judged();
  ASSERT_TRUE(verdict.go);
  EXPECT_EQ(verdict.norm, 5);
  EXPECT_EQ(verdict.clip_factor, 1 / (5 + 1e-6));
}

TEST(ClipFactorTest, FollowsTorch) {
  EXPECT_EQ(ClipFactor(0, 100), 1);
  EXPECT_EQ(ClipFactor(2, 1), 1);
  EXPECT_EQ(ClipFactor(1, 4), 1 / (4 + 1e-6));
  EXPECT_EQ(ClipFactor(1e-9, 0), 1e-9 / 1e-6);
}

}  // namespace
}  // namespace muond
