// The plan: which device owns which item, under an epoch.
// Threads: plain values.   Units: rows are rows of a tensor's 2-D view; costs in seconds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/types/manifest.h"

namespace muond {

struct DeviceSpec {
  std::string daemon;   // the daemon's id
  int32_t ordinal = 0;  // the device within the daemon
  std::string uuid, name, architecture;
  uint64_t memory_bytes = 0;
  uint64_t memory_free_bytes = 0;
};

// Rows [row_begin, row_end) of a tensor's view.
struct Segment {
  int32_t tensor = 0;
  int64_t row_begin = 0, row_end = 0;
  friend bool operator==(const Segment&, const Segment&) = default;
};

// The unit of ownership and of the journal: one Muon matrix (one segment), or one AdamW chunk
// (many).
struct PlanItem {
  Rule rule = Rule::kMuon;
  int32_t owner = 0;  // index into Plan::devices
  std::vector<Segment> segments;
  double cost_seconds = 0;
};

struct Plan {
  uint64_t epoch = 0;
  std::vector<DeviceSpec> devices;
  std::vector<PlanItem> items;  // an item's id is its position: see items.h
  std::vector<double> device_cost_seconds;
  double imbalance = 1;  // heaviest device over mean
  std::string reason;
};

absl::Status Validate(const DeviceSpec& device);
// Counts, owners, segments inside their tensors, and every row of every tensor in exactly one item
// of its rule.
absl::Status Validate(const Manifest& manifest, const Plan& plan);

int64_t ElementsOf(const Manifest& manifest, const PlanItem& item);

}  // namespace muond
