#include "server/daemon/status_convert.h"

#include <cmath>

namespace muond {

DaemonStatus ToDaemonStatus(const StatusReport& report) {
  DaemonStatus status;
  status.keeper_pid = report.keeper_pid;
  status.stepper_pid = report.stepper_pid;
  status.endpoint = report.endpoint;
  status.daemon = report.daemon;
  status.stepper_starts = report.stepper_starts;
  status.draining = report.draining;
  status.metrics_endpoint = report.metrics_endpoint;
  status.uptime_ms = static_cast<uint64_t>(std::llround(report.uptime_seconds * 1e3));
  status.coordinator = report.coordinator;
  status.coordinator_silence_ms =
      static_cast<uint64_t>(std::llround(report.coordinator_heartbeat_age_seconds * 1e3));
  for (const DeviceReport& d : report.devices) {
    DeviceStatus out;
    out.device = {report.daemon,  d.ordinal,          d.uuid, d.name, d.architecture,
                  d.memory_bytes, d.memory_free_bytes};
    out.owned_bytes = d.owned_bytes;
    out.items = d.items;
    out.cost_seconds = d.cost_seconds;
    out.busy_share = d.busy_share;
    status.devices.push_back(std::move(out));
  }
  for (const JobReport& j : report.jobs) {
    JobStatus out;
    out.job = j.job_id;
    out.name = j.name;
    out.incarnation = j.incarnation;
    out.epoch = j.epoch;
    out.step = j.step;
    out.matrices = j.matrices;
    out.items = j.items;
    out.parameters = j.parameters;
    out.state_bytes = j.state_bytes;
    out.slab_bytes = j.slab_bytes;
    out.state = Name(j.state);
    out.void_step = j.void_step;
    out.void_text = j.void_text;
    for (const RankReport& r : j.ranks) out.ranks.push_back({r.rank, r.pid, Name(r.state)});
    for (const PhaseReport& p : j.phases)
      out.phases.push_back({p.phase, p.seconds_median, p.seconds_last});
    status.jobs.push_back(std::move(out));
  }
  return status;
}

}  // namespace muond
