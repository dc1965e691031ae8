#include "server/observe/fail_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

namespace muond {
namespace {

TEST(FailPointDeathTest, TheNthPassageKillsAndOthersDoNot) {
  EXPECT_EXIT(
      {
        if (!ConfigureFailPoint("flip.before:3").ok()) ::_exit(1);
        FailPoint("flip.after");
        FailPoint("flip.before");
        FailPoint("flip.before");
        ::write(STDERR_FILENO, "twice\n", 6);
        FailPoint("flip.before");
        ::_exit(0);
      },
      ::testing::KilledBySignal(SIGKILL), "twice");
}

TEST(FailPointTest, OffByDefaultAndWhenSwitchedOff) {
  FailPoint("anything");
  ASSERT_TRUE(ConfigureFailPoint("anything:1").ok());
  ASSERT_TRUE(ConfigureFailPoint("").ok());
  FailPoint("anything");
}

TEST(FailPointTest, RefusesWhatIsNotNameAndCount) {
  for (const char* bad : {"name", "name:", "name:0", "name:-1", "name:x", ":3"}) {
    EXPECT_EQ(ConfigureFailPoint(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace muond
