#include "server/observe/report_series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muond {
namespace {

using ::testing::HasSubstr;

StatusReport Report() {
  StatusReport report;
  JobReport running, orphan, waiting;
  running.job_id = 7;
  running.epoch = 3;
  running.state = JobState::kRunning;
  running.ranks = {{0, 100, RankState::kAttached, 0.25}, {1, 101, RankState::kAttached, 100}};
  orphan.job_id = 8;
  orphan.epoch = 5;
  orphan.state = JobState::kOrphaned;
  orphan.ranks = {{0, 100, RankState::kGone, 7777}};
  waiting.state = JobState::kJoining;
  waiting.ranks = {{0, 0, RankState::kJoined, 0}};
  report.jobs = {running, orphan, waiting};
  DeviceReport device;
  device.ordinal = 1;
  device.memory_bytes = 5000;
  device.memory_free_bytes = 4000;
  device.cost_seconds = 0.3;
  DeviceReport idle;
  idle.cost_seconds = 0.1;
  report.devices = {device, idle};
  return report;
}

TEST(ReportSeriesTest, WhatIsTheCaseNowIsInTheScrape) {
  auto metrics = *Metrics::Create({{}, "1.2.3", "cpu"});
  Feed(Report(), metrics.get());
  const std::string text = metrics->Exposition();
  for (const char* line :
       {"muond_sessions{state=\"joined\"} 1", "muond_sessions{state=\"attached\"} 2",
        "muond_sessions{state=\"gone\"} 1", "muond_orphaned_jobs 1", "muond_loop_answers 1",
        "muond_jobs 2", "muond_epoch 5", "muond_placement_imbalance_ratio 1.5",
        "muond_rank_heartbeat_age_seconds 100.", "muond_device_owned_bytes{device=\"1\"} 1000",
        "muond_device_limit_bytes{device=\"1\"} 5000"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(ReportSeriesTest, SeriesFallWhenTheirJobsHaveGone) {
  auto metrics = *Metrics::Create({{}, "1.2.3", "cpu"});
  Feed(Report(), metrics.get());
  Feed(StatusReport(), metrics.get());
  const std::string text = metrics->Exposition();
  for (const char* line :
       {"muond_sessions{state=\"attached\"} 0", "muond_orphaned_jobs 0", "muond_jobs 0",
        "muond_placement_imbalance_ratio 0", "muond_rank_heartbeat_age_seconds 0"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(ReportSeriesTest, ALoopThatDoesNotAnswerIsSaid) {
  auto metrics = *Metrics::Create({{}, "1.2.3", "cpu"});
  Feed(Report(), metrics.get());
  Feed(std::nullopt, metrics.get());
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_loop_answers 0"));
  EXPECT_THAT(metrics->Exposition(), HasSubstr("muond_orphaned_jobs 1"));
}

}  // namespace
}  // namespace muond
