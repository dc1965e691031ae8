#include "client/ctl/daemon_commands.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "client/ctl/text_table.h"

namespace muond {
namespace {

using Json = nlohmann::ordered_json;
using absl::StrFormat;

// Names come from users: what is not UTF-8 is replaced, never thrown about.
std::string Dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string Hex(uint64_t id) { return StrFormat("%016x", id); }
std::string Protocol(const ProtocolVersion& version) {
  return StrFormat("%d.%d", version.major_number, version.minor_number);
}

Json DeviceJson(const DeviceSpec& device) {
  return {{"daemon", device.daemon},
          {"ordinal", device.ordinal},
          {"uuid", device.uuid},
          {"name", device.name},
          {"architecture", device.architecture},
          {"memory_bytes", device.memory_bytes},
          {"memory_free_bytes", device.memory_free_bytes}};
}

Json JobJson(const JobStatus& job) {
  Json json = {{"name", job.name},
               {"job_id", Hex(job.job)},
               {"state", job.state},
               {"incarnation", job.incarnation},
               {"epoch", job.epoch},
               {"step", job.step},
               {"matrices", job.matrices},
               {"items", job.items},
               {"parameters", job.parameters}};
  json["ranks"] = Json::array();
  for (const RankStatus& rank : job.ranks) {
    json["ranks"].push_back({{"rank", rank.rank}, {"pid", rank.pid}, {"state", rank.state}});
  }
  json["phases"] = Json::array();
  for (const PhaseStatus& phase : job.phases) {
    json["phases"].push_back({{"phase", phase.phase},
                              {"seconds_median", phase.seconds_median},
                              {"seconds_last", phase.seconds_last}});
  }
  json["void_step"] = job.void_step;
  json["void_text"] = job.void_text;
  json["state_bytes"] = job.state_bytes;
  json["slab_bytes"] = job.slab_bytes;
  return json;
}

std::string RanksText(const JobStatus& job) {
  const auto attached =
      std::count_if(job.ranks.begin(), job.ranks.end(),
                    [](const RankStatus& rank) { return rank.state == "attached"; });
  return StrFormat("%d/%d", attached, job.ranks.size());
}

std::string JobsTable(const DaemonStatus& status) {
  if (status.jobs.empty()) return "no jobs\n";
  TextTable table({"job", "state", "attached", "step", "epoch", "matrices", "items", "parameters",
                   "state", "slabs"});
  for (const JobStatus& job : status.jobs) {
    table.Add({job.name, job.state, RanksText(job), StrFormat("%d", job.step),
               StrFormat("%d", job.epoch), StrFormat("%d", job.matrices),
               StrFormat("%d", job.items), StrFormat("%d", job.parameters),
               BytesText(job.state_bytes), BytesText(job.slab_bytes)});
  }
  std::string text = table.ToText();
  for (const JobStatus& job : status.jobs) {
    if (job.void_step > 0) text += StrFormat("%s, last refused: %s\n", job.name, job.void_text);
  }
  return text;
}

}  // namespace

std::string StatusJson(const DaemonStatus& status) {
  Json json = {{"keeper_pid", status.keeper_pid},
               {"stepper_pid", status.stepper_pid},
               {"endpoint", status.endpoint},
               {"version", status.version.build},
               {"protocol", Protocol(status.version)}};
  json["devices"] = Json::array();
  for (const DeviceStatus& device : status.devices) {
    Json one = DeviceJson(device.device);
    one.erase("daemon");
    one["owned_bytes"] = device.owned_bytes;
    one["items"] = device.items;
    one["cost_seconds"] = device.cost_seconds;
    one["busy_share"] = device.busy_share;
    json["devices"].push_back(std::move(one));
  }
  json["jobs"] = Json::array();
  for (const JobStatus& job : status.jobs) json["jobs"].push_back(JobJson(job));
  json["stepper_starts"] = status.stepper_starts;
  json["draining"] = status.draining;
  json["metrics_endpoint"] = status.metrics_endpoint;
  json["uptime_seconds"] = static_cast<double>(status.uptime_ms) / 1e3;
  json["coordinator"] = status.coordinator;
  json["coordinator_silence_seconds"] = static_cast<double>(status.coordinator_silence_ms) / 1e3;
  json["daemon"] = status.daemon;
  return Dump(json);
}

std::string StatusText(const DaemonStatus& status) {
  std::string text = StrFormat(
      "muond %s (protocol %s) at %s, up %.0f s%s\nkeeper %d, stepper %d (started %d times), "
      "metrics %s, coordinator %s (heard %.1f s ago)\n\n",
      status.version.build, Protocol(status.version), status.endpoint,
      static_cast<double>(status.uptime_ms) / 1e3, status.draining ? ", draining" : "",
      status.keeper_pid, status.stepper_pid, status.stepper_starts,
      status.metrics_endpoint.empty() ? "off" : status.metrics_endpoint, status.coordinator,
      static_cast<double>(status.coordinator_silence_ms) / 1e3);
  TextTable devices(
      {"device", "name", "architecture", "free", "of", "owned", "items", "ms a step", "busy"});
  for (const DeviceStatus& device : status.devices) {
    devices.Add({StrFormat("%d", device.device.ordinal), device.device.name,
                 device.device.architecture, BytesText(device.device.memory_free_bytes),
                 BytesText(device.device.memory_bytes), BytesText(device.owned_bytes),
                 StrFormat("%d", device.items), StrFormat("%.3f", device.cost_seconds * 1e3),
                 Bar(device.busy_share, 10)});
  }
  return text + devices.ToText() + "\n" + JobsTable(status);
}

std::string JobsJson(const DaemonStatus& status) {
  Json json = Json::array();
  for (const JobStatus& job : status.jobs) json.push_back(JobJson(job));
  return Dump({{"jobs", json}});
}

std::string JobsText(const DaemonStatus& status) {
  std::string text = JobsTable(status);
  for (const JobStatus& job : status.jobs) {
    text += StrFormat("\n%s (%s, incarnation %d)\n", job.name, Hex(job.job), job.incarnation);
    TextTable ranks({"rank", "pid", "state"});
    for (const RankStatus& rank : job.ranks) {
      ranks.Add({StrFormat("%d", rank.rank), StrFormat("%d", rank.pid), rank.state});
    }
    text += ranks.ToText();
    if (job.phases.empty()) continue;
    double longest = 0;
    for (const PhaseStatus& phase : job.phases) longest = std::max(longest, phase.seconds_median);
    TextTable phases({"phase", "ms median", "ms last", ""});
    for (const PhaseStatus& phase : job.phases) {
      phases.Add({phase.phase, StrFormat("%.3f", phase.seconds_median * 1e3),
                  StrFormat("%.3f", phase.seconds_last * 1e3),
                  Bar(longest > 0 ? phase.seconds_median / longest : 0, 30)});
    }
    text += "\n" + phases.ToText();
  }
  return text;
}

std::string PlansJson(const std::vector<JobPlan>& plans) {
  Json json = Json::array();
  for (const JobPlan& one : plans) {
    const Plan& plan = one.plan;
    Json items = Json::array(), devices = Json::array();
    for (size_t i = 0; i < plan.items.size(); ++i) {
      Json segments = Json::array();
      for (const Segment& segment : plan.items[i].segments) {
        segments.push_back({{"tensor", segment.tensor},
                            {"row_begin", segment.row_begin},
                            {"row_end", segment.row_end}});
      }
      items.push_back({{"item", i},
                       {"rule", plan.items[i].rule == Rule::kMuon ? "muon" : "adamw"},
                       {"device", plan.items[i].owner},
                       {"cost_seconds", plan.items[i].cost_seconds},
                       {"segments", segments}});
    }
    for (size_t d = 0; d < plan.devices.size(); ++d) {
      Json device = DeviceJson(plan.devices[d]);
      device["cost_seconds"] =
          d < plan.device_cost_seconds.size() ? plan.device_cost_seconds[d] : 0;
      devices.push_back(std::move(device));
    }
    json.push_back({{"job", one.job},
                    {"epoch", plan.epoch},
                    {"imbalance", plan.imbalance},
                    {"reason", plan.reason},
                    {"devices", devices},
                    {"items", items}});
  }
  return Dump({{"plans", json}});
}

std::string PlansText(const std::vector<JobPlan>& plans) {
  if (plans.empty()) return "no jobs\n";
  std::string text;
  for (const JobPlan& one : plans) {
    const Plan& plan = one.plan;
    text += StrFormat("%s%s, epoch %d, imbalance %.4f\n%s\n", text.empty() ? "" : "\n", one.job,
                      plan.epoch, plan.imbalance, plan.reason);
    std::vector<int64_t> matrices(plan.devices.size(), 0), chunks(plan.devices.size(), 0);
    for (const PlanItem& item : plan.items) {
      ++(item.rule == Rule::kMuon ? matrices : chunks)[static_cast<size_t>(item.owner)];
    }
    double heaviest = 0;
    for (double seconds : plan.device_cost_seconds) heaviest = std::max(heaviest, seconds);
    TextTable table({"device", "name", "ms", "", "matrices", "chunks"});
    for (size_t d = 0; d < plan.devices.size() && d < plan.device_cost_seconds.size(); ++d) {
      table.Add({StrFormat("%d", d), plan.devices[d].name,
                 StrFormat("%.4f", plan.device_cost_seconds[d] * 1e3),
                 Bar(heaviest > 0 ? plan.device_cost_seconds[d] / heaviest : 0, 30),
                 StrFormat("%d", matrices[d]), StrFormat("%d", chunks[d])});
    }
    text += table.ToText();
  }
  return text;
}

std::string ClusterJson(const ClusterStatus& cluster) {
  Json json = {{"version", cluster.version.build}, {"protocol", Protocol(cluster.version)}};
  json["daemons"] = Json::array();
  for (const DaemonEntry& daemon : cluster.daemons) {
    Json devices = Json::array();
    for (const DeviceSpec& device : daemon.devices) devices.push_back(DeviceJson(device));
    json["daemons"].push_back(
        {{"daemon", daemon.daemon},
         {"endpoint", daemon.endpoint},
         {"version", daemon.build},
         {"heartbeat_age_seconds", static_cast<double>(daemon.heartbeat_age_ms) / 1e3},
         {"draining", daemon.draining},
         {"devices", devices}});
  }
  json["jobs"] = Json::array();
  for (const JobEntry& job : cluster.jobs) {
    json["jobs"].push_back({{"name", job.name},
                            {"job_id", Hex(job.job)},
                            {"incarnation", job.incarnation},
                            {"epoch", job.epoch},
                            {"world_size", job.world_size},
                            {"items", job.items},
                            {"daemon", job.daemon},
                            {"orphaned", job.orphaned},
                            {"imbalance", job.imbalance}});
  }
  json["coordinator"] = cluster.coordinator;
  return Dump(json);
}

std::string ClusterText(const ClusterStatus& cluster) {
  std::string text = StrFormat(
      "muond-coordinator %s (protocol %s)%s\n\n", cluster.version.build, Protocol(cluster.version),
      cluster.coordinator.empty() ? "" : ", leads: " + cluster.coordinator);
  TextTable daemons({"daemon", "endpoint", "version", "devices", "heartbeat", "state"});
  for (const DaemonEntry& daemon : cluster.daemons) {
    daemons.Add({daemon.daemon, daemon.endpoint, daemon.build,
                 StrFormat("%d", daemon.devices.size()),
                 StrFormat("%.1f s ago", static_cast<double>(daemon.heartbeat_age_ms) / 1e3),
                 daemon.draining ? "draining" : "serving"});
  }
  text += cluster.daemons.empty() ? "no daemons\n" : daemons.ToText();
  TextTable devices({"daemon", "device", "name", "architecture", "free", "of"});
  bool any = false;
  for (const DaemonEntry& daemon : cluster.daemons) {
    for (const DeviceSpec& device : daemon.devices) {
      any = true;
      devices.Add({daemon.daemon.substr(0, 8), StrFormat("%d", device.ordinal), device.name,
                   device.architecture, BytesText(device.memory_free_bytes),
                   BytesText(device.memory_bytes)});
    }
  }
  if (any) text += "\n" + devices.ToText();
  TextTable jobs(
      {"job", "id", "ranks", "items", "incarnation", "epoch", "imbalance", "daemon", "state"});
  for (const JobEntry& job : cluster.jobs) {
    jobs.Add({job.name, Hex(job.job), StrFormat("%d", job.world_size), StrFormat("%d", job.items),
              StrFormat("%d", job.incarnation), StrFormat("%d", job.epoch),
              job.imbalance > 0 ? StrFormat("%.4f", job.imbalance) : "-", job.daemon,
              job.orphaned ? "orphaned" : "running"});
  }
  return text + "\n" + (cluster.jobs.empty() ? "no jobs\n" : jobs.ToText());
}

}  // namespace muond
