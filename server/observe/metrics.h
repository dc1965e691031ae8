// Metrics: the daemon's series, fed by the StepLoop as plain calls, exposed by exposition.h.
// Labels are bounded: jobs are not labels (see /status for them); phases, results, states and
// devices are. Threads: any; a call is a few atomic operations or one short lock.   Units: seconds,
// bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace muond {

// The river's phases: trace spans, histogram labels, bars of /status. kStep is READY of the first
// bucket to step_over.
enum class Phase : uint8_t {
  kMeasure = 0,
  kVerdict,
  kGather,
  kExecute,
  kApply,
  kScatter,
  kHandOff,
  kStep
};
inline constexpr int kPhases = 8;
const char* Name(Phase phase);

enum class StepResult : uint8_t { kApplied = 0, kVoid, kRefused };
enum class SessionState : uint8_t { kJoined = 0, kAttached, kGone };

struct MetricsOptions {
  // Upper bounds of muond_step_seconds' buckets; empty: 50 us to 10 s. INVALID_ARGUMENT unless
  // finite, positive, rising, <= 64.
  std::vector<double> step_seconds_buckets;
  std::string version;
  std::string backend;  // label of build_info: "cpu", "cuda"
};

class Metrics {
 public:
  static absl::StatusOr<std::unique_ptr<Metrics>> Create(const MetricsOptions& options);
  ~Metrics();

  // muond_step_seconds{phase}. A value that is negative or no number is dropped, and counted.
  void StepSeconds(Phase phase, double seconds);
  void Step(StepResult result);                  // muond_steps_total{result}
  void Replay();                                 // muond_replays_total
  void BytesStaged(uint64_t bytes);              // muond_staged_bytes_total
  void Epoch(uint64_t epoch);                    // muond_epoch, the newest
  void Jobs(int count);                          // muond_jobs
  void OrphanedJobs(int count);                  // muond_orphaned_jobs
  void LoopAnswers(bool answers);                // muond_loop_answers
  void Sessions(SessionState state, int count);  // muond_sessions{state}
  // muond_rank_heartbeat_age_seconds at the scrape, of the rank that has been silent for longest; no rank: 0.
  void RankHeartbeat(absl::Time of_the_most_silent_rank);
  void NoHeartbeats();
  void CoordinatorHeartbeat(
      absl::Time last);  // muond_coordinator_heartbeat_age_seconds at the scrape
  void PlacementImbalance(double heaviest_over_mean);  // muond_placement_imbalance_ratio
  // {device}: bytes of state and workspace here, of slabs that ranks map, and bytes that did not come back when a job ended.
  void DeviceOwned(int device, uint64_t bytes,
                   uint64_t limit);  // muond_device_owned_bytes, muond_device_limit_bytes
  void DeviceMapped(int device, uint64_t bytes);      // muond_device_mapped_bytes
  void LeakedAfterClose(int device, uint64_t bytes);  // muond_device_leaked_bytes
  void QueueDepth(int device, int items);             // muond_queue_depth{device}
  void FramesDropped(uint64_t total);                 // muond_frames_dropped_total{carrier}
  void FrameReceived();                               // muond_frames_total{carrier,result="taken"}
  void FrameRefused();                                // … result="refused"
  void StepperStarts(uint32_t starts);                // muond_stepper_starts
  void Draining(bool draining);                       // muond_draining
  void TelemetryDropped(uint64_t observations);       // muond_telemetry_dropped_total

  struct PhaseSeconds {
    double median = 0, last = 0;
    uint64_t count = 0;
  };
  PhaseSeconds phase_seconds(Phase phase) const;  // of the last 256 observations
  // The exposition format's text, as Prometheus scrapes it.
  std::string Exposition();

 private:
  struct Series;
  explicit Metrics(std::unique_ptr<Series> series);
  std::unique_ptr<Series> series_;
};

}  // namespace muond
