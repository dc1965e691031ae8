// `muonctl plan --offline`: who would own what, for a model that is not running. The planner is the coordinator's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/ctl/model_list.h"
#include "proto/planner/planner.h"

namespace muond {

struct OfflineOptions {
  int64_t devices = 8;
  bool cpu = false;                  // plan for CPU devices, not GPUs
  std::string calibration;           // a file of muond-calibrate; empty: the nominal device
  uint64_t device_memory_bytes = 0;  // 0: enough
};

struct OfflinePlan {
  std::vector<ModelRow> list;
  Planned planned;
  std::vector<double> row_seconds;  // of one matrix of each row of the list
  std::vector<std::vector<int64_t>>
      owned;  // [row][device]: how many of the row's matrices the device owns
  double mean_seconds = 0, largest_seconds = 0;
};

absl::StatusOr<OfflinePlan> PlanOffline(std::vector<ModelRow> list, const OfflineOptions& options);

std::string ToJson(const OfflinePlan& plan);
std::string ToText(
    const OfflinePlan&
        plan);  // with bars; at most 64 devices are drawn, the heaviest and lightest ones

}  // namespace muond
