#include "kernels/runtime/spin_window.h"

#include <sched.h>

#include <thread>

#include "gtest/gtest.h"

namespace muond {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

bool OneCore() {
  cpu_set_t cores;
  return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) < 2;
}

class SpinWindowTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (OneCore()) GTEST_SKIP() << "one core: nobody ever looks";
  }
  SpinWindow window_{microseconds(200)};
};

TEST_F(SpinWindowTest, OpensWhereWaitsAreShort) {
  EXPECT_EQ(window_.window(), microseconds(0));
  window_.Learn(microseconds(30), false);
  EXPECT_EQ(window_.window(), microseconds(50));
  window_.Learn(microseconds(80), false);
  EXPECT_EQ(window_.window(), microseconds(100));
  window_.Learn(microseconds(150), false);
  window_.Learn(microseconds(199), false);
  EXPECT_EQ(window_.window(), microseconds(200)) << "never more than the longest";
  window_.Learn(microseconds(20), false);
  EXPECT_EQ(window_.window(), microseconds(200)) << "long enough already";
}

TEST_F(SpinWindowTest, ClosesByHalvesWhereWaitsAreLong) {
  for (int i = 0; i < 4; ++i) window_.Learn(microseconds(150), false);
  ASSERT_EQ(window_.window(), microseconds(200));
  window_.Learn(milliseconds(5), false);
  EXPECT_EQ(window_.window(), microseconds(100));
  for (int i = 0; i < 4; ++i) window_.Learn(milliseconds(5), false);
  EXPECT_EQ(window_.window(), microseconds(0));
}

TEST_F(SpinWindowTest, ShutsForAWhileWhenTheCoreIsWanted) {
  window_.Learn(microseconds(30), false);
  window_.Learn(microseconds(30), true);
  for (int i = 0; i < SpinWindow::kShutWaits; ++i) {
    EXPECT_EQ(window_.window(), microseconds(0));
    window_.Learn(microseconds(30), false);
  }
  window_.Learn(microseconds(30), false);
  EXPECT_EQ(window_.window(), microseconds(50));
}

TEST_F(SpinWindowTest, AWaitLooksNoLongerThanItsWindowAndThenSleepsOnce) {
  window_.Learn(microseconds(30), false);
  int sleeps = 0;
  const auto start = std::chrono::steady_clock::now();
  window_.Wait([] { return false; }, [&sleeps] { ++sleeps; });
  EXPECT_GE(std::chrono::steady_clock::now() - start,
            SpinWindow::kPreempted);  // it looked, for 50 us or until the core was wanted
  EXPECT_EQ(sleeps, 1);
}

TEST_F(SpinWindowTest, WhatComesWhileItLooksNeedsNoSleep) {
  // A busy machine may take the core away in any one wait, and shut the window: one of many gets through.
  for (int wait = 0; wait < 10'000; ++wait) {
    window_.Learn(microseconds(30), false);
    int looks = 0;
    bool slept = false;
    window_.Wait([&looks] { return ++looks == 3; }, [&slept] { slept = true; });
    if (!slept) return;
  }
  FAIL() << "never in 10,000 waits";
}

TEST(SpinWindowOffTest, ZeroSleepsAtOnce) {
  SpinWindow window(SpinWindow::Duration::zero());
  window.Learn(microseconds(0), false);
  int looks = 0, sleeps = 0;
  window.Wait([&looks] { return ++looks > 0; }, [&sleeps] { ++sleeps; });
  EXPECT_EQ(looks, 0);
  EXPECT_EQ(sleeps, 1);
}

}  // namespace
}  // namespace muond
