#include "server/schedule/scheduler.h"

#include <algorithm>
#include <tuple>

namespace muond {

void SortForStep(std::vector<ScheduledItem>& items) {
  std::sort(items.begin(), items.end(), [](const ScheduledItem& x, const ScheduledItem& y) {
    return std::make_tuple(-x.cost_seconds, x.shape, x.item) <
           std::make_tuple(-y.cost_seconds, y.shape, y.item);
  });
}

void Scheduler::AddJob(uint64_t job) {
  for (DeviceQueues& device : devices_) {
    // A newcomer starts level with the job that has had least: it is owed nothing for the time before.
    double least = 0;
    bool first = true;
    for (const Queue& queue : device.jobs) {
      least = first ? queue.served_seconds : std::min(least, queue.served_seconds);
      first = false;
    }
    device.jobs.push_back({});
    device.jobs.back().job = job;
    device.jobs.back().served_seconds = least;
  }
}

void Scheduler::RemoveJob(uint64_t job) {
  for (DeviceQueues& device : devices_) {
    std::erase_if(device.jobs, [job](const Queue& queue) { return queue.job == job; });
  }
}

void Scheduler::Enqueue(int device, uint64_t job, absl::Span<const ScheduledItem> items) {
  DeviceQueues& queues = devices_[device];
  // A job that has been idle does not save up the time it left to others.
  double least_waiting = -1;
  for (const Queue& queue : queues.jobs) {
    if (queue.waiting() && (least_waiting < 0 || queue.served_seconds < least_waiting)) {
      least_waiting = queue.served_seconds;
    }
  }
  for (Queue& queue : queues.jobs) {
    if (queue.job != job) continue;
    queue.items.assign(items.begin(), items.end());
    queue.next = 0;
    queue.served_seconds = std::max(queue.served_seconds, least_waiting);
  }
}

bool Scheduler::Next(int device, absl::FunctionRef<uint32_t(uint64_t, uint32_t)> limit,
                     ScheduledGroup* group) {
  DeviceQueues& queues = devices_[device];
  if (queues.groups_in_flight >= kGroupsInFlight && queues.seconds_in_flight >= kSecondsInFlight)
    return false;
  Queue* chosen = nullptr;
  for (Queue& queue : queues.jobs) {
    if (queue.waiting() && (chosen == nullptr || queue.served_seconds < chosen->served_seconds))
      chosen = &queue;
  }
  if (chosen == nullptr) return false;
  group->job = chosen->job;
  group->items.clear();
  group->cost_seconds = 0;
  const ScheduledItem first = chosen->items[chosen->next];
  const uint32_t most = std::max<uint32_t>(1, limit(chosen->job, first.item));
  while (chosen->waiting() && group->items.size() < most &&
         chosen->items[chosen->next].shape == first.shape) {
    const ScheduledItem& item = chosen->items[chosen->next++];
    group->items.push_back(item.item);
    group->cost_seconds += item.cost_seconds;
  }
  chosen->served_seconds += group->cost_seconds;
  ++queues.groups_in_flight;
  queues.seconds_in_flight += group->cost_seconds;
  return true;
}

void Scheduler::Finished(int device, double cost_seconds) {
  DeviceQueues& queues = devices_[device];
  --queues.groups_in_flight;
  // Sums of doubles drift; an empty device is exactly empty.
  queues.seconds_in_flight =
      queues.groups_in_flight == 0 ? 0 : queues.seconds_in_flight - cost_seconds;
}

bool Scheduler::Idle(int device) const {
  const DeviceQueues& queues = devices_[device];
  return queues.groups_in_flight == 0 &&
         std::none_of(queues.jobs.begin(), queues.jobs.end(),
                      [](const Queue& queue) { return queue.waiting(); });
}

}  // namespace muond
