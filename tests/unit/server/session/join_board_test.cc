#include "server/session/join_board.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/manifests.h"

namespace muond {
namespace {

using testing::EmptyManifest;
using ::testing::HasSubstr;
using testing::Tensor;

const absl::Time kNow = absl::FromUnixSeconds(1000);

JoinRequest Request(uint64_t ticket, int32_t rank, int32_t world, int64_t rows = 4,
                    bool adopt = false) {
  Manifest manifest = EmptyManifest(world);
  manifest.tensors = {Tensor("w", {rows, 4})};
  RankManifest of_rank;
  of_rank.rank = rank;
  return {ticket, std::make_shared<Manifest>(manifest), std::make_shared<RankManifest>(of_rank),
          adopt, kNow + absl::Seconds(10)};
}

TEST(JoinBoardTest, AJobIsCompleteWithItsLastRankInRankOrder) {
  JoinBoard board;
  EXPECT_FALSE(board.Add(Request(1, 2, 3)).complete.has_value());
  EXPECT_FALSE(board.Add(Request(2, 0, 3)).complete.has_value());
  const auto added = board.Add(Request(3, 1, 3));
  ASSERT_TRUE(added.complete.has_value());
  EXPECT_THAT(added.complete->tickets, ::testing::ElementsAre(2, 3, 1));
  EXPECT_EQ(board.NextDeadline(), absl::InfiniteFuture());
}

TEST(JoinBoardTest, ARankThatComesTwiceIsRefusedAndTheFirstStays) {
  JoinBoard board;
  board.Add(Request(1, 0, 2));
  const auto again = board.Add(Request(2, 0, 2));
  ASSERT_EQ(again.refused.size(), 1u);
  EXPECT_EQ(again.refused[0].ticket, 2u);
  EXPECT_EQ(again.refused[0].status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(board.Add(Request(3, 1, 2)).complete.has_value());
}

TEST(JoinBoardTest, DifferentManifestsRefuseEverybodyAndNameTheFirstDifference) {
  JoinBoard board;
  board.Add(Request(1, 0, 3));
  board.Add(Request(2, 1, 3));
  const auto added = board.Add(Request(3, 2, 3, /*rows=*/5));
  ASSERT_EQ(added.refused.size(), 3u);
  for (const JoinAnswer& answer : added.refused) {
    EXPECT_EQ(answer.status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(answer.status.message(), HasSubstr("ranks 0 and 2 disagree"));
    EXPECT_THAT(answer.status.message(), HasSubstr("shape [4,4] against [5,4]"));
  }
  EXPECT_TRUE(board.Waiting().empty());
}

TEST(JoinBoardTest, RanksThatWantDifferentStateAreRefused) {
  JoinBoard board;
  board.Add(Request(1, 0, 2));
  const auto added = board.Add(Request(2, 1, 2, 4, /*adopt=*/true));
  EXPECT_EQ(added.refused.size(), 2u);
  EXPECT_THAT(added.refused[0].status.message(), HasSubstr("fresh against adopt"));
}

TEST(JoinBoardTest, ARankOutsideItsWorldIsRefused) {
  JoinBoard board;
  EXPECT_THAT(board.Add(Request(1, 2, 2)).refused[0].status.message(),
              HasSubstr("rank 2 in a world of 2"));
}

TEST(JoinBoardTest, AtTheDeadlineTheMissingRanksAreNamed) {
  JoinBoard board;
  board.Add(Request(1, 1, 40));
  EXPECT_TRUE(board.Expire(kNow).empty());
  const auto answers = board.Expire(board.NextDeadline());
  ASSERT_EQ(answers.size(), 1u);
  EXPECT_EQ(answers[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(answers[0].status.message(),
              HasSubstr("1 of 40 ranks joined in time; missing: 0, 2, 3, 4"));
  EXPECT_THAT(answers[0].status.message(), HasSubstr("and 23 more"));
}

TEST(JoinBoardTest, ACancelledJoinLeavesRoomForAnother) {
  JoinBoard board;
  board.Add(Request(1, 0, 2));
  board.Cancel(1);
  EXPECT_TRUE(board.Waiting().empty());
  EXPECT_TRUE(board.Add(Request(2, 0, 2)).refused.empty());
}

JoinRequest Sitting(uint64_t ticket, int32_t rank, uint64_t seat, uint64_t attempt = 0,
                    int64_t rows = 4) {
  JoinRequest request = Request(ticket, rank, 3, rows);
  request.seat = seat;
  request.attempt = attempt;
  return request;
}

TEST(JoinBoardTest, ARepeatTakesThePlaceOfTheCallBeforeItAndAnotherSeatDoesNot) {
  JoinBoard board;
  board.Add(Sitting(1, 0, 70));
  const auto again = board.Add(Sitting(2, 0, 70));
  ASSERT_EQ(again.refused.size(), 1u);
  EXPECT_EQ(again.refused[0].ticket, 1u);
  EXPECT_EQ(again.refused[0].status.code(), absl::StatusCode::kAborted);
  board.Cancel(1);  // the broken connection is noticed only now
  EXPECT_EQ(board.Add(Sitting(3, 0, 71)).refused.at(0).status.code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(board.Add(Sitting(4, 0, 0)).refused.at(0).status.code(),
            absl::StatusCode::kAlreadyExists);
  board.Add(Sitting(5, 1, 72));
  const auto added = board.Add(Sitting(6, 2, 73));
  ASSERT_TRUE(added.complete.has_value());
  EXPECT_THAT(added.complete->tickets, ::testing::ElementsAre(2, 5, 6));
  EXPECT_THAT(added.complete->seats, ::testing::ElementsAre(70, 72, 73));
}

TEST(JoinBoardTest, ARankThatAsksAfterTheOthersWereRefusedIsToldWhy) {
  JoinBoard board;
  board.Add(Sitting(1, 0, 70, /*attempt=*/9));
  board.Add(Sitting(2, 1, 71, /*attempt=*/9, /*rows=*/5));
  const auto late = board.Add(Sitting(3, 2, 72, /*attempt=*/9));
  ASSERT_EQ(late.refused.size(), 1u);
  EXPECT_THAT(late.refused[0].status.message(), HasSubstr("ranks 0 and 1 disagree"));
  // The next try starts from nothing, and so does whoever does not say which try it is.
  EXPECT_TRUE(board.Add(Sitting(4, 2, 72, /*attempt=*/10)).refused.empty());
  board.Cancel(4);
  EXPECT_TRUE(board.Add(Sitting(5, 2, 72)).refused.empty());
}

TEST(JoinBoardTest, ARankThatAsksAfterTheDeadlineIsToldWhoWasMissing) {
  JoinBoard board;
  board.Add(Sitting(1, 0, 70, /*attempt=*/9));
  board.Expire(board.NextDeadline());
  EXPECT_THAT(board.Add(Sitting(2, 1, 71, /*attempt=*/9)).refused.at(0).status.message(),
              HasSubstr("1 of 3 ranks joined in time; missing: 1, 2"));
}

TEST(JoinBoardTest, RanksOfTwoRunsUnderOneNameAreNotMixed) {
  JoinBoard board;
  board.Add(Sitting(1, 0, 70, /*attempt=*/9));
  const auto other = board.Add(Sitting(2, 1, 71, /*attempt=*/10));
  EXPECT_THAT(other.refused.at(0).status.message(), HasSubstr("ranks of another run wait"));
  EXPECT_TRUE(board.Add(Sitting(3, 1, 72)).refused.empty());  // an older client says none
  EXPECT_TRUE(board.Add(Sitting(4, 2, 73, /*attempt=*/9)).complete.has_value());
}

TEST(JoinBoardTest, OldAttemptsAreForgottenBeforeTheyFillTheMemory) {
  JoinBoard board;
  for (uint64_t attempt = 1; attempt <= 1000; ++attempt) {
    board.Fail(attempt, absl::InternalError("no"));
  }
  EXPECT_TRUE(board.Add(Sitting(1, 0, 70, /*attempt=*/1)).refused.empty());
  EXPECT_EQ(board.Add(Sitting(2, 0, 70, /*attempt=*/1000)).refused.size(), 1u);
}

}  // namespace
}  // namespace muond
