// The commands that ask a daemon (or a coordinator): values to text or JSON. Printing and exit codes are main.cc's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/types/coordinator_calls.h"
#include "proto/types/daemon_calls.h"

namespace muond {

// Keys of `status -o json` that other programs may rely on: keeper_pid, stepper_pid, endpoint, version, protocol, devices[]
// (ordinal, uuid, name, architecture, memory_bytes, memory_free_bytes, owned_bytes, items, cost_seconds, busy_share),
// jobs[] (name, job_id, state, incarnation, epoch, step, matrices, items, parameters, ranks[], phases[], state_bytes,
// slab_bytes), stepper_starts, draining, metrics_endpoint, uptime_seconds, coordinator, daemon.
std::string StatusJson(const DaemonStatus& status);
std::string StatusText(const DaemonStatus& status);
std::string JobsJson(const DaemonStatus& status);
std::string JobsText(const DaemonStatus& status);

struct JobPlan {
  std::string job;
  Plan plan;
};
std::string PlansJson(const std::vector<JobPlan>& plans);
std::string PlansText(const std::vector<JobPlan>& plans);

std::string ClusterJson(const ClusterStatus& cluster);
std::string ClusterText(const ClusterStatus& cluster);

}  // namespace muond
