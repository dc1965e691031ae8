#include "server/observe/status_page.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace muond {
namespace {

std::string Escaped(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
}

std::string Seconds(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.0f &micro;s", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.2f ms", seconds * 1e3);
  if (seconds < 120) return absl::StrFormat("%.1f s", seconds);
  return absl::StrFormat("%.0f min", seconds / 60);
}

constexpr const char* kHead =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>muond</title>"
    "<meta http-equiv=\"refresh\" content=\"2\"><style>"
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:62em;padding:0 "
    "1em;color:#1c2430;background:#fbfcfd}"
    "h1{font-size:1.3em}h2{font-size:1.1em;margin:1.6em 0 "
    ".4em}table{border-collapse:collapse;width:100%}"
    "th,td{text-align:left;padding:.25em .7em .25em 0;border-bottom:1px solid "
    "#e3e8ee}th{font-weight:600;color:#5a6777}"
    "td.n,th.n{text-align:right}.bar{background:#2f6fde;height:.8em;border-radius:2px;min-width:"
    "1px}"
    ".state{padding:0 "
    ".5em;border-radius:3px;background:#e5edf9}.gone,.orphaned,.draining{background:#fbe3d6}"
    "</style></head><body>\n";

void AppendPhases(const JobReport& job, std::string* out) {
  if (job.phases.empty()) return;
  double most = 0;
  for (const PhaseReport& phase : job.phases) most = std::max(most, phase.seconds_median);
  absl::StrAppend(out,
                  "<table><tr><th>phase</th><th class=n>median</th><th class=n>last</th>"
                  "<th style=\"width:60%\"></th></tr>\n");
  for (const PhaseReport& phase : job.phases) {
    const double share = most > 0 ? 100 * phase.seconds_median / most : 0;
    absl::StrAppend(out, "<tr><td>", Escaped(phase.phase), "</td><td class=n>",
                    Seconds(phase.seconds_median), "</td><td class=n>", Seconds(phase.seconds_last),
                    "</td><td><div class=bar style=\"width:", absl::StrFormat("%.1f", share),
                    "%\"></div></td></tr>\n");
  }
  absl::StrAppend(out, "</table>\n");
}

void AppendJob(const JobReport& job, std::string* out) {
  absl::StrAppend(out, "<h2>job ", Escaped(job.name), " <span class=\"state ", Name(job.state),
                  "\">", Name(job.state), "</span></h2>\n<p>step ", job.step, ", epoch ", job.epoch,
                  ", incarnation ", job.incarnation, ": ", job.matrices, " matrices, ", job.items,
                  " items, ", job.parameters, " parameters, state ", Bytes(job.state_bytes),
                  ", slabs ", Bytes(job.slab_bytes), "</p>\n");
  if (job.void_step > 0)
    absl::StrAppend(out, "<p>last refused: ", Escaped(job.void_text), "</p>\n");
  AppendPhases(job, out);
  absl::StrAppend(
      out,
      "<table><tr><th>rank</th><th>pid</th><th>state</th><th class=n>heartbeat age</th></tr>\n");
  for (const RankReport& rank : job.ranks) {
    absl::StrAppend(out, "<tr><td>", rank.rank, "</td><td>", rank.pid,
                    "</td><td><span class=\"state ", Name(rank.state), "\">", Name(rank.state),
                    "</span></td><td class=n>", Seconds(rank.heartbeat_age_seconds),
                    "</td></tr>\n");
  }
  absl::StrAppend(out, "</table>\n");
}

}  // namespace

std::string StatusHtml(const StatusReport& report) {
  std::string out = kHead;
  absl::StrAppend(
      &out, "<h1>muond ", Escaped(report.version),
      report.draining ? " <span class=\"state draining\">draining</span>" : "",
      "</h1>\n<p>endpoint ", Escaped(report.endpoint), "; keeper ", report.keeper_pid, ", stepper ",
      report.stepper_pid, " (start ", report.stepper_starts, "); up ",
      Seconds(report.uptime_seconds), "; coordinator ", Escaped(report.coordinator),
      ", heartbeat age ", Seconds(report.coordinator_heartbeat_age_seconds),
      "</p>\n<h2>devices</h2>\n<table><tr><th>device</th><th>name</th><th class=n>owned</th>"
      "<th class=n>free</th><th class=n>items</th><th class=n>cost</th><th>busy</th></tr>\n");
  for (const DeviceReport& device : report.devices) {
    absl::StrAppend(&out, "<tr><td>", device.ordinal, "</td><td>", Escaped(device.name), " (",
                    Escaped(device.architecture), ")</td><td class=n>", Bytes(device.owned_bytes),
                    "</td><td class=n>", Bytes(device.memory_free_bytes), "</td><td class=n>",
                    device.items, "</td><td class=n>", Seconds(device.cost_seconds),
                    "</td><td><div class=bar style=\"width:",
                    absl::StrFormat("%.1f", 100 * std::clamp(device.busy_share, 0.0, 1.0)),
                    "%\"></div></td></tr>\n");
  }
  absl::StrAppend(&out, "</table>\n");
  if (report.jobs.empty()) absl::StrAppend(&out, "<p>No job.</p>\n");
  for (const JobReport& job : report.jobs) AppendJob(job, &out);
  absl::StrAppend(&out, "</body></html>\n");
  return out;
}

std::string StatusJson(const StatusReport& report) {
  using nlohmann::json;
  json root = {{"version", report.version},
               {"keeper_pid", report.keeper_pid},
               {"stepper_pid", report.stepper_pid},
               {"stepper_starts", report.stepper_starts},
               {"endpoint", report.endpoint},
               {"metrics_endpoint", report.metrics_endpoint},
               {"daemon", report.daemon},
               {"coordinator", report.coordinator},
               {"coordinator_heartbeat_age_seconds", report.coordinator_heartbeat_age_seconds},
               {"uptime_seconds", report.uptime_seconds},
               {"draining", report.draining},
               {"devices", json::array()},
               {"jobs", json::array()}};
  for (const DeviceReport& d : report.devices) {
    root["devices"].push_back({{"ordinal", d.ordinal},
                               {"uuid", d.uuid},
                               {"name", d.name},
                               {"architecture", d.architecture},
                               {"memory_bytes", d.memory_bytes},
                               {"memory_free_bytes", d.memory_free_bytes},
                               {"owned_bytes", d.owned_bytes},
                               {"items", d.items},
                               {"cost_seconds", d.cost_seconds},
                               {"busy_share", d.busy_share}});
  }
  for (const JobReport& j : report.jobs) {
    json job = {{"job_id", j.job_id},
                {"name", j.name},
                {"incarnation", j.incarnation},
                {"epoch", j.epoch},
                {"step", j.step},
                {"matrices", j.matrices},
                {"items", j.items},
                {"parameters", j.parameters},
                {"state_bytes", j.state_bytes},
                {"slab_bytes", j.slab_bytes},
                {"state", Name(j.state)},
                {"void_step", j.void_step},
                {"void_text", j.void_text},
                {"ranks", json::array()},
                {"phases", json::array()}};
    for (const RankReport& r : j.ranks) {
      job["ranks"].push_back({{"rank", r.rank},
                              {"pid", r.pid},
                              {"state", Name(r.state)},
                              {"heartbeat_age_seconds", r.heartbeat_age_seconds}});
    }
    for (const PhaseReport& p : j.phases) {
      job["phases"].push_back({{"phase", p.phase},
                               {"seconds_median", p.seconds_median},
                               {"seconds_last", p.seconds_last}});
    }
    root["jobs"].push_back(std::move(job));
  }
  // Names may hold bytes that are no UTF-8; they are shown as the replacement character.
  return root.dump(2, ' ', false, json::error_handler_t::replace);
}

}  // namespace muond
