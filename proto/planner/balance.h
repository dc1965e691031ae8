// Balance: whole items onto devices, so that the device that finishes last finishes as early as possible.
//
// Longest processing time first; then, where few sizes are many times there (models), packings by patterns
// (patterns.h), which also prove how good any plan can be; then moves and swaps off the heaviest device. Memory limits
// hold throughout. Devices of one kind are interchangeable for time, so at the end they are dealt out such that items
// stay where they are preferred (their state, or their shards, lie there already).
//
// Threads: pure function.   Deterministic: equal inputs give equal answers.   Units: seconds, bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace muond {

struct BalanceItem {
  std::vector<double> seconds;  // on a device of each kind; all > 0
  uint64_t size_bytes = 0;
  int32_t preferred = -1;  // a device; -1: none
};

struct BalanceDevice {
  int32_t kind = 0;  // index into BalanceItem::seconds
  uint64_t room_bytes = 0;
};

struct Balance {
  std::vector<int32_t> owner;  // one an item
  std::vector<double> load;    // seconds, one a device
  double makespan = 0;
  double lower_bound = 0;  // max(mean load, largest item)
  double proven = 0;       // >= lower_bound: no plan that keeps items whole is faster than this
  int64_t kept = 0;        // items on their preferred device
};

// RESOURCE_EXHAUSTED with the byte counts when no device has room for an item.   REQUIRES: at least one device; kinds
// and preferences within bounds; every item has as many `seconds` as there are kinds.
absl::StatusOr<Balance> BalanceItems(absl::Span<const BalanceItem> items,
                                     absl::Span<const BalanceDevice> devices);

}  // namespace muond
