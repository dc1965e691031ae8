// The planner: manifest, ranks, devices and the previous plan -> plan and reason. It decides nothing else and keeps
// nothing: the coordinator calls it to decide, muonctl to show what would be decided.
//
// An item's cost is what its step takes on a device: Newton-Schulz of the algorithm chosen for its shape, the passes
// over its memory (kernels/optim/cost.h), and the bytes that travel: gradients of every replica that is read, the
// parameter to every holder. Costs move plans only, never the bits of a result.
//
// Threads: pure function.   Deterministic: equal inputs give equal plans.   Units: seconds, bytes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/optim/cost.h"
#include "proto/types/manifest.h"
#include "proto/types/plan.h"

namespace muond {

// What a device of a kind is reckoned to do; a calibration replaces either.
struct CostModels {
  CostModel cpu = CostModel::Nominal(DeviceKind::kCpu);
  CostModel gpu = CostModel::Nominal(DeviceKind::kCuda);
  double cpu_link_bytes_per_second = 8e9;     // a copy within host memory
  double gpu_link_bytes_per_second = 3.5e11;  // NVLink, one direction, as pulls reach it
};

struct PlannerInput {
  const Manifest* manifest = nullptr;  // valid; not null
  absl::Span<const RankManifest>
      ranks;  // cover the manifest; empty: unsharded, one replica (a plan on paper)
  absl::Span<const DeviceSpec> devices;  // at least one; memory_bytes 0: unknown, taken as enough
  const Plan* previous = nullptr;        // of this manifest, or null
  uint64_t epoch = 1;
};

struct Planned {
  Plan plan;
  double makespan_seconds = 0;
  double lower_bound_seconds = 0;  // max(mean, largest item)
  double proven_seconds = 0;       // no plan that keeps items whole is faster
  int64_t kept = 0;        // items that stay with their owner, or lie where their shards are
  int64_t preferring = 0;  // items that had such a place
};

// Bytes of device memory that an item takes at its owner: fp32 momentum or both moments, and its share of the arena.
uint64_t ItemBytes(Rule rule, int64_t elements);

// INVALID_ARGUMENT: an unknown table, no devices. RESOURCE_EXHAUSTED with byte counts: it does not fit.
absl::StatusOr<Planned> MakePlan(const PlannerInput& input, const CostModels& models = {});

}  // namespace muond
