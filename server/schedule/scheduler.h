// Scheduler: which group of items runs next on which device.
//
// Longest first within a job (the order in which the job enqueues), groups of one shape as far as the caller's limit reaches
// (workspace, spare slots), fair across jobs: the job that has had the least of a device's time goes next. A device is fed
// while less than kSecondsInFlight of estimated work is on it or fewer than kGroupsInFlight groups are, so that a short step is
// enqueued at once and a job that arrives in the middle of a long one waits no longer than that.
// Decides only: starts nothing, reads no clock.
// Threads: the StepLoop.   Units: seconds as the plan estimates them.   Memory: steady steps allocate nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"

namespace muond {

inline constexpr double kSecondsInFlight = 0.02;
inline constexpr int kGroupsInFlight = 2;

struct ScheduledItem {
  uint32_t item = 0;
  uint32_t shape = 0;  // items of one shape may run as one group
  double cost_seconds = 0;
};

// Sorts into the order of one step: costliest shape first, then by shape and id.
void SortForStep(std::vector<ScheduledItem>& items);

struct ScheduledGroup {
  uint64_t job = 0;
  std::vector<uint32_t> items;
  double cost_seconds = 0;
};

class Scheduler {
 public:
  explicit Scheduler(int devices) : devices_(devices) {}

  void AddJob(uint64_t job);
  void RemoveJob(uint64_t job);  // what it has queued is forgotten
  // One step's items of a job on a device, in SortForStep order. REQUIRES: nothing of the job is queued there.
  void Enqueue(int device, uint64_t job, absl::Span<const ScheduledItem> items);
  // Fills `group` (reused) with what to start now; false when the device has enough or nothing waits. `limit` tells how many
  // items of the shape of `item` may run at once (at least 1).
  bool Next(int device, absl::FunctionRef<uint32_t(uint64_t job, uint32_t item)> limit,
            ScheduledGroup* group);
  // A started group has finished on the device.
  void Finished(int device, double cost_seconds);
  bool Idle(int device) const;

 private:
  struct Queue {
    uint64_t job = 0;
    std::vector<ScheduledItem> items;
    size_t next = 0;
    double served_seconds = 0;
    bool waiting() const { return next < items.size(); }
  };
  struct DeviceQueues {
    std::vector<Queue> jobs;
    int groups_in_flight = 0;
    double seconds_in_flight = 0;
  };
  std::vector<DeviceQueues> devices_;
};

}  // namespace muond
