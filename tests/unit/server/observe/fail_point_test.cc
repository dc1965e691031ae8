#include "server/observe/fail_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

namespace muond {
namespace {

TEST(FailPointDeathTest, TheNthPassageKillsAndOthersDoNot) {
  EXPECT_EXIT(
      {
        if (!ConfigureFailPoint("before_flip:3").ok()) ::_exit(1);
        FailPoint("after_flip");
        FailPoint("before_flip");
        FailPoint("before_flip");
        ::write(STDERR_FILENO, "twice\n", 6);
        FailPoint("before_flip");
        ::_exit(0);
      },
      ::testing::KilledBySignal(SIGKILL), "twice");
}

TEST(FailPointDeathTest, EachStartDiesOfItsOwnEntry) {
  EXPECT_EXIT(
      {
        if (!ConfigureFailPoint("before_flip:1,recover_mid:1", 2).ok()) ::_exit(1);
        FailPoint("before_flip");
        ::write(STDERR_FILENO, "lived\n", 6);
        FailPoint("recover_mid");
        ::_exit(0);
      },
      ::testing::KilledBySignal(SIGKILL), "lived");
  ASSERT_TRUE(ConfigureFailPoint("before_flip:1,recover_mid:1", 3).ok());
  EXPECT_FALSE(FailPointArmed());
  FailPoint("recover_mid");
}

TEST(FailPointTest, OffByDefaultAndWhenSwitchedOff) {
  FailPoint("after_done");
  ASSERT_TRUE(ConfigureFailPoint("after_done:1").ok());
  EXPECT_TRUE(FailPointArmed());
  ASSERT_TRUE(ConfigureFailPoint("").ok());
  FailPoint("after_done");
}

TEST(FailPointTest, RefusesWhatIsNotNameAndCount) {
  for (const char* bad : {"after_done", "after_done:", "after_done:0", "after_done:-1",
                          "after_done:x", ":3", "after_done:1,", "after_done:1,recover_mid"}) {
    EXPECT_EQ(ConfigureFailPoint(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(FailPointTest, AnUnknownNameIsRefusedWithAllThatThereAre) {
  const absl::Status status = ConfigureFailPoint("after_dinner:1");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      ::testing::AllOf(::testing::HasSubstr("\"after_dinner\""), ::testing::HasSubstr("after_done"),
                       ::testing::HasSubstr("recover_end")));
}

}  // namespace
}  // namespace muond
