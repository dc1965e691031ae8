#include "server/observe/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/time/clock.h"

namespace muond {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::unique_ptr<Metrics> Make() { return *Metrics::Create({{}, "1.2.3", "cpu"}); }

TEST(MetricsTest, SeriesAppearWithTheirLabels) {
  auto metrics = Make();
  metrics->StepSeconds(Phase::kExecute, 0.003);
  metrics->Step(StepResult::kApplied);
  metrics->Step(StepResult::kApplied);
  metrics->Step(StepResult::kVoid);
  metrics->BytesStaged(4096);
  metrics->Sessions(SessionState::kAttached, 2);
  metrics->DeviceOwned(1, 1000, 5000);
  const std::string text = metrics->Exposition();
  for (const char* line :
       {"muond_step_seconds_bucket{phase=\"execute\",le=\"0.005\"} 1",
        "muond_step_seconds_bucket{phase=\"execute\",le=\"0.002\"} 0",
        "muond_steps_total{result=\"applied\"} 2", "muond_steps_total{result=\"void\"} 1",
        "muond_staged_bytes_total 4096", "muond_sessions{state=\"attached\"} 2",
        "muond_device_owned_bytes{device=\"1\"} 1000",
        "muond_device_limit_bytes{device=\"1\"} 5000", "# TYPE muond_steps_total counter"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  EXPECT_THAT(text, HasSubstr("muond_build_info{backend=\"cpu\",version=\"1.2.3\"} 1"));
}

TEST(MetricsTest, AgesAreTakenAtTheScrape) {
  auto metrics = Make();
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_rank_heartbeat_age_seconds 0"));
  metrics->RankHeartbeat(absl::Now() - absl::Seconds(100));
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_rank_heartbeat_age_seconds 100."));
  metrics->NoHeartbeats();
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_rank_heartbeat_age_seconds 0"));
}

TEST(MetricsTest, WhatCannotBeObservedIsCountedAsDropped) {
  auto metrics = Make();
  metrics->StepSeconds(Phase::kStep, std::nan(""));
  metrics->StepSeconds(Phase::kStep, -1);
  const std::string text = metrics->Exposition();
  EXPECT_THAT(text, HasSubstr("muond_telemetry_dropped_total 2"));
  EXPECT_THAT(text, HasSubstr("muond_step_seconds_count{phase=\"step\"} 0"));
}

TEST(MetricsTest, ATotalThatIsToldOftenIsCountedOnce) {
  auto metrics = Make();
  metrics->FramesDropped(3);
  metrics->FramesDropped(3);
  metrics->FramesDropped(5);
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_frames_dropped_total{carrier=\"ipc\"} 5"));
}

TEST(MetricsTest, TheMedianIsOfTheNewest256) {
  auto metrics = Make();
  EXPECT_EQ(metrics->phase_seconds(Phase::kGather).count, 0u);
  for (int i = 0; i < 300; ++i) metrics->StepSeconds(Phase::kGather, 100);
  for (int i = 1; i <= 256; ++i) metrics->StepSeconds(Phase::kGather, i);
  const auto seconds = metrics->phase_seconds(Phase::kGather);
  EXPECT_EQ(seconds.count, 556u);
  EXPECT_EQ(seconds.last, 256);
  EXPECT_EQ(seconds.median, 129);
}

TEST(MetricsTest, BucketsCanBeOverriddenAndBadOnesAreRefusedWithTheNumber) {
  auto metrics = Metrics::Create({{0.5, 2}, "v", "cpu"});
  ASSERT_TRUE(metrics.ok());
  EXPECT_THAT((*metrics)->Exposition(),
              HasSubstr("muond_step_seconds_bucket{phase=\"step\",le=\"2\"} 0"));
  const auto bad = Metrics::Create({{2, 0.5}, "v", "cpu"});
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("0.5"));
}

}  // namespace
}  // namespace muond
