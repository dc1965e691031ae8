#include "server/session/gate.h"

#include <gtest/gtest.h>

namespace muond {
namespace {

// Step 6 has a verdict and is over; three buckets.
GateView View() { return {true, 11, 2, 3, 3, 7, 6, true}; }

Frame FrameOf(FrameType type, uint64_t step = 7) {
  Frame frame;
  frame.type = type;
  frame.job = 11;
  frame.rank = 2;
  frame.incarnation = 3;
  frame.epoch = 7;
  frame.step = step;
  frame.bucket = 1;
  return frame;
}

TEST(GateTest, TheNextStepIsTaken) {
  EXPECT_EQ(Admit(View(), FrameOf(FrameType::kReady)).answer, GateAnswer::kTake);
  EXPECT_EQ(Admit(View(), FrameOf(FrameType::kStep)).answer, GateAnswer::kTake);
}

TEST(GateTest, AStepThatIsOverIsReplayedAndOneThatRunsIsHeld) {
  EXPECT_EQ(Admit(View(), FrameOf(FrameType::kStep, 6)).answer, GateAnswer::kReplay);
  EXPECT_EQ(Admit(View(), FrameOf(FrameType::kStep, 2)).answer, GateAnswer::kReplay);
  GateView running = View();
  running.verdict_over = false;
  EXPECT_EQ(Admit(running, FrameOf(FrameType::kStep, 6)).answer, GateAnswer::kHold);
  EXPECT_EQ(Admit(running, FrameOf(FrameType::kReady, 5)).answer, GateAnswer::kReplay);
}

TEST(GateTest, AGapIsRefusedWithTheStepThatIsExpected) {
  for (const uint64_t step : {0, 8, 1000}) {
    const GateDecision decision = Admit(View(), FrameOf(FrameType::kReady, step));
    EXPECT_EQ(decision.answer, GateAnswer::kRefuse);
    EXPECT_EQ(decision.reason, RefusedReason::kStepGap);
    EXPECT_EQ(decision.expected_step, 7u);
  }
}

TEST(GateTest, StaleEpochIncarnationAndSessionEachHaveTheirReason) {
  Frame frame = FrameOf(FrameType::kReady);
  frame.epoch = 6;
  EXPECT_EQ(Admit(View(), frame).reason, RefusedReason::kStaleEpoch);
  frame.incarnation = 2;
  EXPECT_EQ(Admit(View(), frame).reason, RefusedReason::kStaleIncarnation);
  frame.rank = 1;
  EXPECT_EQ(Admit(View(), frame).reason, RefusedReason::kUnknownSession);
  EXPECT_EQ(Admit(GateView(), FrameOf(FrameType::kHello)).reason, RefusedReason::kUnknownSession);
}

TEST(GateTest, ABucketBeyondTheManifestIsRefused) {
  Frame frame = FrameOf(FrameType::kReady);
  frame.bucket = 3;
  EXPECT_EQ(Admit(View(), frame).reason, RefusedReason::kBadBucket);
}

TEST(GateTest, WhatOnlyADaemonSaysAndAByeOfNobodyAreIgnored) {
  for (const FrameType type : {FrameType::kWelcome, FrameType::kDone, FrameType::kVoid,
                               FrameType::kRefused, FrameType::kPong}) {
    EXPECT_EQ(Admit(View(), FrameOf(type)).answer, GateAnswer::kIgnore);
  }
  EXPECT_EQ(Admit(GateView(), FrameOf(FrameType::kBye)).answer, GateAnswer::kIgnore);
}

}  // namespace
}  // namespace muond
