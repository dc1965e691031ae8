#include "server/observe/report_series.h"

#include <algorithm>
#include <array>

#include "absl/time/clock.h"

namespace muond {

void Feed(const std::optional<StatusReport>& report, Metrics* metrics) {
  metrics->LoopAnswers(report.has_value());
  if (!report.has_value()) return;

  std::array<int, 3> sessions{};  // joined, attached, gone
  int jobs = 0, orphaned = 0;
  uint64_t epoch = 0;
  double silent_seconds = -1;
  for (const JobReport& job : report->jobs) {
    if (job.job_id != 0) ++jobs;  // 0: ranks that wait for the others to join
    epoch = std::max(epoch, job.epoch);
    if (job.state == JobState::kOrphaned) ++orphaned;
    for (const RankReport& rank : job.ranks) {
      ++sessions[static_cast<size_t>(rank.state) - 1];
      if (job.state == JobState::kRunning && rank.state == RankState::kAttached)
        silent_seconds = std::max(silent_seconds, rank.heartbeat_age_seconds);
    }
  }
  metrics->Sessions(SessionState::kJoined, sessions[0]);
  metrics->Sessions(SessionState::kAttached, sessions[1]);
  metrics->Sessions(SessionState::kGone, sessions[2]);
  metrics->Jobs(jobs);
  metrics->OrphanedJobs(orphaned);
  if (epoch > 0) metrics->Epoch(epoch);
  if (silent_seconds < 0) {
    metrics->NoHeartbeats();
  } else {
    metrics->RankHeartbeat(absl::Now() - absl::Seconds(silent_seconds));
  }
  double cost = 0, heaviest = 0;
  for (const DeviceReport& device : report->devices) {
    cost += device.cost_seconds;
    heaviest = std::max(heaviest, device.cost_seconds);
    const uint64_t free_bytes = std::min(device.memory_bytes, device.memory_free_bytes);
    metrics->DeviceOwned(device.ordinal, device.memory_bytes - free_bytes, device.memory_bytes);
  }
  metrics->PlacementImbalance(
      cost > 0 ? heaviest * static_cast<double>(report->devices.size()) / cost : 0);
}

}  // namespace muond
