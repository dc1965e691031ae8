#include "server/observe/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr size_t kRecent = 256;
constexpr size_t kBucketsMax = 64;
const std::map<std::string, std::string> kIpc = {{"carrier", "ipc"}};

std::vector<double> DefaultBuckets() {
  return {50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3,
          50e-3, 0.1,    0.2,    0.5,    1,    2,    5,    10};
}

absl::Status CheckBuckets(const std::vector<double>& buckets) {
  if (buckets.size() > kBucketsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(buckets.size(), " histogram buckets, at most ", kBucketsMax, " are allowed"));
  }
  double below = 0;
  for (const double bucket : buckets) {
    if (!std::isfinite(bucket) || bucket <= below) {
      return absl::InvalidArgumentError(
          absl::StrCat("histogram bucket ", bucket, " is not finite and above ", below));
    }
    below = bucket;
  }
  return absl::OkStatus();
}

const char* Name(StepResult result) {
  switch (result) {
    case StepResult::kApplied:
      return "applied";
    case StepResult::kVoid:
      return "void";
    case StepResult::kRefused:
      return "refused";
  }
  return "unknown";
}

const char* Name(SessionState state) {
  switch (state) {
    case SessionState::kJoined:
      return "joined";
    case SessionState::kAttached:
      return "attached";
    case SessionState::kGone:
      return "gone";
  }
  return "unknown";
}

}  // namespace

const char* Name(Phase phase) {
  switch (phase) {
    case Phase::kMeasure:
      return "measure";
    case Phase::kVerdict:
      return "verdict";
    case Phase::kGather:
      return "gather";
    case Phase::kExecute:
      return "execute";
    case Phase::kApply:
      return "apply";
    case Phase::kScatter:
      return "scatter";
    case Phase::kHandOff:
      return "hand_off";
    case Phase::kStep:
      return "step";
  }
  return "unknown";
}

struct Metrics::Series {
  using Labels = std::map<std::string, std::string>;

  prometheus::Counter& CounterOf(const std::string& name, const std::string& help,
                                 const Labels& labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
  }
  prometheus::Gauge& GaugeOf(const std::string& name, const std::string& help,
                             const Labels& labels = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
  }
  prometheus::Gauge& OfDevice(const std::string& name, const std::string& help, int device) {
    return GaugeOf(name, help, {{"device", absl::StrCat(device)}});
  }

  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};
  std::array<prometheus::Histogram*, kPhases> step_seconds{};
  std::array<prometheus::Counter*, 3> steps{};
  std::array<prometheus::Gauge*, 3> sessions{};
  prometheus::Counter *replays, *staged, *telemetry_dropped, *frames_dropped, *frames_taken,
      *frames_refused;
  prometheus::Gauge *epoch, *jobs, *orphaned, *answers, *rank_age, *coordinator_age, *imbalance,
      *starts, *draining;

  mutable absl::Mutex mutex;
  struct Recent {
    std::array<double, kRecent> seconds{};
    uint64_t count = 0;
  };
  std::array<Recent, kPhases> recent ABSL_GUARDED_BY(mutex);
  absl::Time rank_heartbeat ABSL_GUARDED_BY(mutex) = absl::InfiniteFuture();
  absl::Time coordinator_heartbeat ABSL_GUARDED_BY(mutex) = absl::InfiniteFuture();
  uint64_t frames_dropped_seen ABSL_GUARDED_BY(mutex) = 0;
  uint64_t log_lines_seen ABSL_GUARDED_BY(mutex) = 0;
};

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Create(const MetricsOptions& options) {
  const auto buckets =
      options.step_seconds_buckets.empty() ? DefaultBuckets() : options.step_seconds_buckets;
  if (auto status = CheckBuckets(buckets); !status.ok()) return status;
  auto s = std::make_unique<Series>();
  auto& family = prometheus::BuildHistogram()
                     .Name("muond_step_seconds")
                     .Help("Seconds of each phase of a step.")
                     .Register(s->registry);
  for (int i = 0; i < kPhases; ++i) {
    s->step_seconds[i] = &family.Add({{"phase", Name(static_cast<Phase>(i))}}, buckets);
  }
  for (int i = 0; i < 3; ++i) {
    s->steps[i] = &s->CounterOf("muond_steps_total", "Steps by their result.",
                                {{"result", Name(static_cast<StepResult>(i))}});
    s->sessions[i] = &s->GaugeOf("muond_sessions", "Sessions of ranks by their state.",
                                 {{"state", Name(static_cast<SessionState>(i))}});
  }
  s->replays = &s->CounterOf("muond_replays_total",
                             "Steps that were asked for again and answered from the journal.");
  s->staged = &s->CounterOf("muond_staged_bytes_total",
                            "Bytes of new state and parameters that were staged.");
  s->telemetry_dropped =
      &s->CounterOf("muond_telemetry_dropped_total", "Observations and log lines that were lost.");
  s->frames_dropped =
      &s->CounterOf("muond_frames_dropped_total", "Frames pushed out of full queues.", kIpc);
  s->frames_taken = &s->CounterOf("muond_frames_total", "Frames received, by what became of them.",
                                  {{"carrier", "ipc"}, {"result", "taken"}});
  s->frames_refused =
      &s->CounterOf("muond_frames_total", "Frames received, by what became of them.",
                    {{"carrier", "ipc"}, {"result", "refused"}});
  s->epoch = &s->GaugeOf("muond_epoch", "Newest epoch of any job's plan.");
  s->jobs = &s->GaugeOf("muond_jobs", "Jobs that this daemon holds.");
  s->orphaned = &s->GaugeOf("muond_orphaned_jobs", "Jobs whose ranks are gone; state is kept.");
  s->answers = &s->GaugeOf("muond_loop_answers", "1 while the step loop answers; 0: it hangs.");
  s->rank_age = &s->GaugeOf("muond_rank_heartbeat_age_seconds",
                            "Since the last frame of the most silent rank.");
  s->coordinator_age = &s->GaugeOf("muond_coordinator_heartbeat_age_seconds",
                                   "Since the coordinator last answered a heartbeat.");
  s->imbalance =
      &s->GaugeOf("muond_placement_imbalance_ratio", "Heaviest device's cost over the mean.");
  s->starts = &s->GaugeOf("muond_stepper_starts", "Starts of the stepper under this keeper.");
  s->draining = &s->GaugeOf("muond_draining", "1 while the daemon takes no new jobs.");
  s->GaugeOf("muond_build_info", "Always 1; the labels tell the build.",
             {{"version", options.version}, {"backend", options.backend}})
      .Set(1);
  return std::unique_ptr<Metrics>(new Metrics(std::move(s)));
}

Metrics::Metrics(std::unique_ptr<Series> series) : series_(std::move(series)) {}
Metrics::~Metrics() = default;

void Metrics::StepSeconds(Phase phase, double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return TelemetryDropped(1);
  const auto i = static_cast<size_t>(phase);
  series_->step_seconds[i]->Observe(seconds);
  absl::MutexLock lock(&series_->mutex);
  Series::Recent& recent = series_->recent[i];
  recent.seconds[recent.count++ % kRecent] = seconds;
}

Metrics::PhaseSeconds Metrics::phase_seconds(Phase phase) const {
  absl::MutexLock lock(&series_->mutex);
  const Series::Recent& recent = series_->recent[static_cast<size_t>(phase)];
  if (recent.count == 0) return {};
  std::vector<double> sorted(
      recent.seconds.begin(),
      recent.seconds.begin() + static_cast<long>(std::min<uint64_t>(recent.count, kRecent)));
  std::nth_element(sorted.begin(), sorted.begin() + static_cast<long>(sorted.size() / 2),
                   sorted.end());
  return {sorted[sorted.size() / 2], recent.seconds[(recent.count - 1) % kRecent], recent.count};
}

void Metrics::Step(StepResult result) { series_->steps[static_cast<size_t>(result)]->Increment(); }
void Metrics::Replay() { series_->replays->Increment(); }
void Metrics::BytesStaged(uint64_t bytes) {
  series_->staged->Increment(static_cast<double>(bytes));
}
void Metrics::Epoch(uint64_t epoch) { series_->epoch->Set(static_cast<double>(epoch)); }
void Metrics::Jobs(int count) { series_->jobs->Set(count); }
void Metrics::OrphanedJobs(int count) { series_->orphaned->Set(count); }
void Metrics::LoopAnswers(bool answers) { series_->answers->Set(answers ? 1 : 0); }
void Metrics::Sessions(SessionState state, int count) {
  series_->sessions[static_cast<size_t>(state)]->Set(count);
}
void Metrics::PlacementImbalance(double heaviest_over_mean) {
  series_->imbalance->Set(heaviest_over_mean);
}
void Metrics::StepperStarts(uint32_t starts) { series_->starts->Set(starts); }
void Metrics::Draining(bool draining) { series_->draining->Set(draining ? 1 : 0); }
void Metrics::FrameReceived() { series_->frames_taken->Increment(); }
void Metrics::FrameRefused() { series_->frames_refused->Increment(); }
void Metrics::TelemetryDropped(uint64_t observations) {
  series_->telemetry_dropped->Increment(static_cast<double>(observations));
}

void Metrics::RankHeartbeat(absl::Time of_the_most_silent_rank) {
  absl::MutexLock lock(&series_->mutex);
  series_->rank_heartbeat = of_the_most_silent_rank;
}
void Metrics::NoHeartbeats() { RankHeartbeat(absl::InfiniteFuture()); }
void Metrics::CoordinatorHeartbeat(absl::Time last) {
  absl::MutexLock lock(&series_->mutex);
  series_->coordinator_heartbeat = last;
}

void Metrics::DeviceOwned(int device, uint64_t bytes, uint64_t limit) {
  series_->OfDevice("muond_device_owned_bytes", "Bytes of state and workspace.", device)
      .Set(static_cast<double>(bytes));
  series_->OfDevice("muond_device_limit_bytes", "Bytes that may be owned.", device)
      .Set(static_cast<double>(limit));
}
void Metrics::DeviceMapped(int device, uint64_t bytes) {
  series_->OfDevice("muond_device_mapped_bytes", "Bytes of slabs that ranks map.", device)
      .Set(static_cast<double>(bytes));
}
void Metrics::LeakedAfterClose(int device, uint64_t bytes) {
  series_
      ->OfDevice("muond_device_leaked_bytes", "Bytes that did not come back when a job ended.",
                 device)
      .Set(static_cast<double>(bytes));
}
void Metrics::QueueDepth(int device, int items) {
  series_->OfDevice("muond_queue_depth", "Items that wait for a device.", device).Set(items);
}

void Metrics::FramesDropped(uint64_t total) {
  absl::MutexLock lock(&series_->mutex);
  if (total <= series_->frames_dropped_seen) return;
  series_->frames_dropped->Increment(static_cast<double>(total - series_->frames_dropped_seen));
  series_->frames_dropped_seen = total;
}

std::string Metrics::Exposition() {
  const absl::Time now = absl::Now();
  {
    absl::MutexLock lock(&series_->mutex);
    series_->rank_age->Set(
        std::max(0.0, absl::ToDoubleSeconds(now - std::min(now, series_->rank_heartbeat))));
    series_->coordinator_age->Set(
        std::max(0.0, absl::ToDoubleSeconds(now - std::min(now, series_->coordinator_heartbeat))));
    const uint64_t lost = log_lines_dropped();
    series_->telemetry_dropped->Increment(static_cast<double>(lost - series_->log_lines_seen));
    series_->log_lines_seen = lost;
  }
  return prometheus::TextSerializer().Serialize(series_->registry.Collect());
}

}  // namespace muond
