// CoordinatorMetrics: the coordinator's series. Labels are bounded: states, operations, calls, results; jobs and daemons are
// no labels (muonctl cluster names them).
// Threads: safe from any.   Units: seconds.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/types/coordinator_calls.h"
#include "server/coordinator/store.h"

namespace muond {

class CoordinatorMetrics {
 public:
  // `version`: label of muond_coordinator_build_info. `store`: its other label: memory, sqlite, etcd.
  CoordinatorMetrics(const std::string& version, const std::string& store);
  ~CoordinatorMetrics();

  void Planned(absl::Duration took);                          // muond_coordinator_plan_seconds
  void Stored(const char* operation, absl::Duration took,     // muond_coordinator_store_seconds
              const absl::Status& status);                    // ..._store_errors_total
  void Called(const char* call, const absl::Status& status);  // muond_coordinator_calls_total
  void Certificate(absl::Time end);  // muond_coordinator_certificate_end_seconds

  // The exposition's text. `cluster`: what is so now, by whoever leads; null: this one stands by.
  std::string Exposition(const ClusterStatus* cluster);

 private:
  struct Series;
  const std::unique_ptr<Series> series_;
};

// `store`, each of its calls measured. `metrics` is borrowed and outlives it.
std::unique_ptr<Store> Measured(std::unique_ptr<Store> store, CoordinatorMetrics* metrics);

}  // namespace muond
