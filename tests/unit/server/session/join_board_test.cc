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

}  // namespace
}  // namespace muond
