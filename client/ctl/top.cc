#include "client/ctl/top.h"

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/ctl/text_table.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/daemon_stub.h"

namespace muond {
namespace {

using absl::StrFormat;

// Of one daemon, or one endpoint, an answer is waited for that long: a sample must not outlast its interval.
constexpr absl::Duration kAnswerWithin = absl::Seconds(1);

const JobStatus* FindJob(const TopSample& sample, uint64_t job, const std::string& daemon) {
  for (const TopDaemon& one : sample.daemons) {
    if (one.status.daemon != daemon) continue;
    for (const JobStatus& status : one.status.jobs) {
      if (status.job == job) return &status;
    }
  }
  return nullptr;
}

std::string StepsASecond(const JobStatus& job, const std::string& daemon, const TopSample& now,
                         const TopSample* before) {
  const JobStatus* const old = before == nullptr ? nullptr : FindJob(*before, job.job, daemon);
  if (old == nullptr || now.at <= before->at || job.step < old->step) return "-";
  return StrFormat("%.1f", static_cast<double>(job.step - old->step) /
                               absl::ToDoubleSeconds(now.at - before->at));
}

double StepMilliseconds(const JobStatus& job) {
  for (const PhaseStatus& phase : job.phases) {
    if (phase.phase == "step") return phase.seconds_median * 1e3;
  }
  return 0;
}

std::string Nodes(const TopSample& now) {
  TextTable table({"daemon", "endpoint", "heartbeat", "devices", "free", "of", "state"});
  for (const DaemonEntry& daemon : now.cluster->daemons) {
    uint64_t free_bytes = 0, bytes = 0;
    for (const DeviceSpec& device : daemon.devices) {
      free_bytes += device.memory_free_bytes;
      bytes += device.memory_bytes;
    }
    table.Add({daemon.daemon.substr(0, 8), daemon.endpoint,
               StrFormat("%.1f s", static_cast<double>(daemon.heartbeat_age_ms) / 1e3),
               StrFormat("%d", daemon.devices.size()), BytesText(free_bytes), BytesText(bytes),
               daemon.draining ? "draining" : "serving"});
  }
  return now.cluster->daemons.empty() ? "no daemons\n" : table.ToText();
}

std::string Devices(const TopSample& now) {
  TextTable table({"daemon", "device", "name", "owned", "items", "busy", ""});
  bool any = false;
  for (const TopDaemon& daemon : now.daemons) {
    if (!daemon.reached.ok()) continue;
    for (const DeviceStatus& device : daemon.status.devices) {
      any = true;
      table.Add({daemon.status.daemon.substr(0, 8), StrFormat("%d", device.device.ordinal),
                 device.device.name, BytesText(device.owned_bytes), StrFormat("%d", device.items),
                 StrFormat("%.0f %%", 100 * device.busy_share), Bar(device.busy_share, 20)});
    }
  }
  return any ? "\n" + table.ToText() : "";
}

// Jobs that a daemon which was reached holds, and those that only the coordinator knows of.
std::string Jobs(const TopSample& now, const TopSample* before) {
  TextTable table({"job", "daemon", "state", "ranks", "step", "steps/s", "ms a step", "imbalance",
                   "last void"});
  std::vector<uint64_t> shown;
  const auto imbalance = [&now](uint64_t job) -> std::string {
    if (!now.cluster.has_value()) return "-";
    for (const JobEntry& entry : now.cluster->jobs) {
      if (entry.job == job && entry.imbalance > 0) return StrFormat("%.3f", entry.imbalance);
    }
    return "-";
  };
  for (const TopDaemon& daemon : now.daemons) {
    for (const JobStatus& job : daemon.status.jobs) {
      shown.push_back(job.job);
      table.Add({job.name, daemon.status.daemon.substr(0, 8), job.state,
                 StrFormat("%d", job.ranks.size()), StrFormat("%d", job.step),
                 StepsASecond(job, daemon.status.daemon, now, before),
                 StrFormat("%.2f", StepMilliseconds(job)), imbalance(job.job),
                 job.void_step == 0 ? "-" : StrFormat("%d", job.void_step)});
    }
  }
  if (now.cluster.has_value()) {
    for (const JobEntry& job : now.cluster->jobs) {
      if (std::find(shown.begin(), shown.end(), job.job) != shown.end()) continue;
      shown.push_back(job.job);
      table.Add({job.name, job.daemon.substr(0, 8), job.orphaned ? "orphaned" : "running",
                 StrFormat("%d", job.world_size), "-", "-", "-", imbalance(job.job), "-"});
    }
  }
  return "\n" + (shown.empty() ? "no jobs\n" : table.ToText());
}

}  // namespace

std::string TopText(const TopSample& now, const TopSample* before) {
  std::string text =
      "muonctl top  " + absl::FormatTime("%Y-%m-%d %H:%M:%S", now.at, absl::LocalTimeZone());
  if (!now.cluster.has_value() && now.daemons.empty())
    return text + "\n\n" + std::string(now.asked.message()) + "\n";
  if (now.cluster.has_value()) {
    if (!now.cluster->coordinator.empty())
      text += StrFormat("  leads: %s", now.cluster->coordinator);
    text += "\n\n" + Nodes(now);
  } else {
    text += StrFormat("  daemon %s\n", now.daemons.front().endpoint);
  }
  text += Devices(now) + Jobs(now, before);
  for (const TopDaemon& daemon : now.daemons) {
    if (!daemon.reached.ok()) {
      text += StrFormat("\n%s is not reached from here: its jobs as the coordinator knows them",
                        daemon.endpoint);
    }
  }
  return text.ends_with("\n") ? text : text + "\n";
}

TopSample TakeTopSample(const std::string& endpoint, const StubOptions& options, absl::Time now) {
  TopSample sample;
  sample.at = now;
  StubOptions quick = options;
  quick.timeout = std::min(options.timeout, kAnswerWithin);
  const auto coordinator = CoordinatorStub::Create(endpoint, options);
  if (!coordinator.ok()) {
    sample.asked = coordinator.status();
    return sample;
  }
  auto cluster = (*coordinator)->GetCluster();
  sample.asked = cluster.status();
  std::vector<std::string> endpoints;
  if (cluster.ok()) {
    sample.cluster = *std::move(cluster);
    for (const DaemonEntry& daemon : sample.cluster->daemons) endpoints.push_back(daemon.endpoint);
  } else if (absl::IsUnimplemented(cluster.status())) {
    endpoints.push_back(endpoint);  // a daemon whose coordinator is elsewhere
  }
  for (const std::string& one : endpoints) {
    TopDaemon daemon{one, absl::OkStatus(), {}};
    const auto stub = DaemonStub::Create(one, quick);
    daemon.reached = stub.status();
    if (stub.ok()) {
      auto status = (*stub)->GetStatus();
      daemon.reached = status.status();
      if (status.ok()) daemon.status = *std::move(status);
    }
    sample.daemons.push_back(std::move(daemon));
  }
  return sample;
}

absl::Status RunTop(const std::string& endpoint, const StubOptions& options,
                    const TopOptions& top) {
  std::optional<TopSample> before;
  absl::Time next = absl::Now();
  for (int taken = 1;; ++taken) {
    TopSample now = TakeTopSample(endpoint, options, absl::Now());
    const std::string text = TopText(now, before.has_value() ? &*before : nullptr);
    if (std::printf("%s%s",
                    top.clear   ? "\x1b[H\x1b[2J"
                    : taken > 1 ? "\n"
                                : "",
                    text.c_str()) < 0 ||
        std::fflush(stdout) != 0) {
      return absl::InternalError("standard output is closed");
    }
    if (taken == top.count) {
      return now.cluster.has_value() || !now.daemons.empty() ? absl::OkStatus() : now.asked;
    }
    before = std::move(now);
    next += top.interval;
    absl::SleepFor(std::max(next - absl::Now(), absl::ZeroDuration()));
  }
}

}  // namespace muond
