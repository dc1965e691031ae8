#include "server/coordinator/coordinator_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace muond {
namespace {

using Labels = std::map<std::string, std::string>;

const prometheus::Histogram::BucketBoundaries kStoreSeconds = {1e-4, 3e-4, 1e-3, 3e-3, 0.01,
                                                               0.03, 0.1,  0.3,  1,    3};
const prometheus::Histogram::BucketBoundaries kPlanSeconds = {1e-3, 0.01, 0.1, 0.3, 1,
                                                              3,    10,   30,  100};

}  // namespace

struct CoordinatorMetrics::Series {
  prometheus::Registry registry{prometheus::Registry::InsertBehavior::Merge};
  prometheus::Gauge& GaugeOf(const char* name, const char* help, const Labels& labels = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
  }
  prometheus::Counter& CounterOf(const char* name, const char* help, const Labels& labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
  }
  prometheus::Histogram& HistogramOf(const char* name, const char* help, const Labels& labels,
                                     const prometheus::Histogram::BucketBoundaries& bounds) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels,
                                                                                     bounds);
  }

  prometheus::Gauge& leads = GaugeOf("muond_coordinator_leads", "1 while this one leads.");
  prometheus::Gauge& serving = GaugeOf(
      "muond_coordinator_daemons", "Daemons with a lease, by their state; of the one that leads.",
      {{"state", "serving"}});
  prometheus::Gauge& draining = GaugeOf(
      "muond_coordinator_daemons", "Daemons with a lease, by their state; of the one that leads.",
      {{"state", "draining"}});
  prometheus::Gauge& devices = GaugeOf("muond_coordinator_devices", "Devices of those daemons.");
  prometheus::Gauge& running = GaugeOf(
      "muond_coordinator_jobs", "Jobs in the catalogue, by their state.", {{"state", "running"}});
  prometheus::Gauge& orphaned = GaugeOf(
      "muond_coordinator_jobs", "Jobs in the catalogue, by their state.", {{"state", "orphaned"}});
  prometheus::Gauge& epoch = GaugeOf("muond_coordinator_epoch", "Newest epoch of any job's plan.");
  prometheus::Gauge& imbalance =
      GaugeOf("muond_coordinator_imbalance_ratio",
              "Heaviest device's cost over the mean, of the worst job's plan; 0 without jobs.");
  prometheus::Gauge& heartbeat =
      GaugeOf("muond_coordinator_heartbeat_seconds", "Since the most silent daemon was heard.");
  prometheus::Gauge& certificate_end =
      GaugeOf("muond_coordinator_certificate_end_seconds",
              "When the door's certificate ends, as Unix time; 0: there is none.");
  prometheus::Histogram& plan =
      HistogramOf("muond_coordinator_plan_seconds", "Seconds to make one plan.", {}, kPlanSeconds);
};

CoordinatorMetrics::CoordinatorMetrics(const std::string& version, const std::string& store)
    : series_(std::make_unique<Series>()) {
  series_
      ->GaugeOf("muond_coordinator_build_info",
                "Always 1; the labels tell the build and the store.",
                {{"version", version}, {"store", store}})
      .Set(1);
  // Shown from the start, so that their rates begin at zero.
  for (const char* operation : {"commit", "scan"}) Stored(operation, absl::InfiniteDuration(), {});
}
CoordinatorMetrics::~CoordinatorMetrics() = default;

void CoordinatorMetrics::Planned(absl::Duration took) {
  series_->plan.Observe(absl::ToDoubleSeconds(took));
}

void CoordinatorMetrics::Stored(const char* operation, absl::Duration took,
                                const absl::Status& status) {
  auto& seconds =
      series_->HistogramOf("muond_coordinator_store_seconds", "Seconds of the store's calls.",
                           {{"operation", operation}}, kStoreSeconds);
  auto& errors = series_->CounterOf("muond_coordinator_store_errors_total",
                                    "Calls of the store that failed.", {{"operation", operation}});
  if (took != absl::InfiniteDuration()) seconds.Observe(absl::ToDoubleSeconds(took));
  if (!status.ok()) errors.Increment();
}

void CoordinatorMetrics::Called(const char* call, const absl::Status& status) {
  series_
      ->CounterOf("muond_coordinator_calls_total", "Calls at the door, by their outcome.",
                  {{"call", call}, {"code", absl::StatusCodeToString(status.code())}})
      .Increment();
}

void CoordinatorMetrics::Certificate(absl::Time end) {
  series_->certificate_end.Set(absl::ToDoubleSeconds(end - absl::UnixEpoch()));
}

std::string CoordinatorMetrics::Exposition(const ClusterStatus* cluster) {
  series_->leads.Set(cluster != nullptr ? 1 : 0);
  double draining = 0, devices = 0, orphaned = 0, imbalance = 0, silent_ms = 0, epoch = 0;
  const ClusterStatus none;
  const ClusterStatus& now = cluster != nullptr ? *cluster : none;
  for (const DaemonEntry& daemon : now.daemons) {
    draining += daemon.draining ? 1 : 0;
    devices += static_cast<double>(daemon.devices.size());
    silent_ms = std::max(silent_ms, static_cast<double>(daemon.heartbeat_age_ms));
  }
  for (const JobEntry& job : now.jobs) {
    orphaned += job.orphaned ? 1 : 0;
    imbalance = std::max(imbalance, job.imbalance);
    epoch = std::max(epoch, static_cast<double>(job.epoch));
  }
  series_->serving.Set(static_cast<double>(now.daemons.size()) - draining);
  series_->draining.Set(draining);
  series_->devices.Set(devices);
  series_->running.Set(static_cast<double>(now.jobs.size()) - orphaned);
  series_->orphaned.Set(orphaned);
  series_->imbalance.Set(imbalance);
  series_->heartbeat.Set(silent_ms / 1e3);
  series_->epoch.Set(epoch);
  return prometheus::TextSerializer().Serialize(series_->registry.Collect());
}

namespace {

class MeasuredStore final : public Store {
 public:
  MeasuredStore(std::unique_ptr<Store> store, CoordinatorMetrics* metrics)
      : store_(std::move(store)), metrics_(*metrics) {}

  absl::Status Commit(absl::Span<const Change> changes) override {
    const absl::Time begin = absl::Now();
    absl::Status status = store_->Commit(changes);
    metrics_.Stored("commit", absl::Now() - begin, status);
    return status;
  }
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Scan(
      std::string_view prefix) override {
    const absl::Time begin = absl::Now();
    auto found = store_->Scan(prefix);
    metrics_.Stored("scan", absl::Now() - begin, found.status());
    return found;
  }

 private:
  const std::unique_ptr<Store> store_;
  CoordinatorMetrics& metrics_;
};

}  // namespace

std::unique_ptr<Store> Measured(std::unique_ptr<Store> store, CoordinatorMetrics* metrics) {
  return std::make_unique<MeasuredStore>(std::move(store), metrics);
}

}  // namespace muond
