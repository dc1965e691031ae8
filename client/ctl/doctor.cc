#include "client/ctl/doctor.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "client/ctl/text_table.h"
#include "proto/stubs/endpoint.h"
#include "proto/types/version.h"

namespace muond {
namespace {

using absl::StrFormat;

constexpr uint64_t kOpenFilesWanted =
    4096;  // a rank costs a dozen descriptors: slabs, sockets, gRPC
constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

Check DaemonCheck(const Facts& facts) {
  if (facts.daemon.has_value()) {
    return {"daemon", Finding::kOk,
            StrFormat("answers at %s: keeper %d, stepper %d", facts.endpoint,
                      facts.daemon->keeper_pid, facts.daemon->stepper_pid),
            ""};
  }
  std::string change = "start one: `muond`, or let the client start its own by setting no endpoint";
  if (IsUnixEndpoint(facts.endpoint) && facts.socket_exists) {
    change = facts.socket_usable
                 ? "the socket is left over, or its daemon hangs: see its log, start it again"
                 : "this user may not write to the socket: use the daemon's user or group";
  }
  if (absl::IsFailedPrecondition(facts.reached)) change = "install the same version on both sides";
  if (absl::IsInvalidArgument(facts.reached)) change = "give --endpoint unix:/path or host:port";
  return {"daemon", Finding::kProblem, MessageOf(facts.reached), change};
}

void AddDaemonChecks(const Facts& facts, std::vector<Check>* checks) {
  if (!facts.daemon.has_value()) return;
  const DaemonStatus& daemon = *facts.daemon;
  const bool same = daemon.version.build == kBuild;
  checks->push_back(
      {"version", same ? Finding::kOk : Finding::kNote,
       StrFormat("daemon %s, muonctl %s, protocol %d.%d and %d.%d", daemon.version.build, kBuild,
                 daemon.version.major_number, daemon.version.minor_number, kProtocolMajor,
                 kProtocolMinor),
       same ? "" : "they understand each other; install one version when convenient"});
  if (daemon.devices.empty()) {
    checks->push_back({"devices", Finding::kProblem, "the daemon has no device",
                       "set cpu_devices, or make a GPU visible"});
  }
  for (const DeviceStatus& device : daemon.devices) {
    const DeviceSpec& spec = device.device;
    const bool low = spec.memory_bytes > 0 && spec.memory_free_bytes < spec.memory_bytes / 20;
    checks->push_back(
        {StrFormat("device %d", spec.ordinal), low ? Finding::kWarning : Finding::kOk,
         StrFormat("%s (%s), %s free of %s", spec.name, spec.architecture,
                   BytesText(spec.memory_free_bytes), BytesText(spec.memory_bytes)),
         low ? "less than 5 % is free: the next attach may be refused; end a job, or add a device"
             : ""});
  }
  const bool silent = daemon.coordinator_silence_ms > 30'000;
  checks->push_back(
      {"coordinator", silent ? Finding::kWarning : Finding::kOk,
       StrFormat("%s, heard %.1f s ago", daemon.coordinator.empty() ? "?" : daemon.coordinator,
                 static_cast<double>(daemon.coordinator_silence_ms) / 1e3),
       silent ? "steps go on and new jobs wait: start it, or see why nobody leads (muonctl cluster)"
              : ""});
  if (daemon.stepper_starts > 1) {
    checks->push_back({"stepper", Finding::kWarning,
                       StrFormat("was started %d times", daemon.stepper_starts),
                       "look for stepper.exited in the daemon's log"});
  }
  if (daemon.draining)
    checks->push_back(
        {"drain", Finding::kNote, "the daemon takes no new jobs", "restart it when it is empty"});
}

Check OpenFilesCheck(const Facts& facts) {
  if (facts.open_files >= kOpenFilesWanted) {
    return {"open files", Finding::kOk, StrFormat("RLIMIT_NOFILE is %d", facts.open_files), ""};
  }
  return {"open files", Finding::kWarning,
          StrFormat("RLIMIT_NOFILE is %d, %d are wanted (a rank holds about a dozen)",
                    facts.open_files, kOpenFilesWanted),
          facts.open_files_hard >= kOpenFilesWanted
              ? StrFormat("ulimit -n %d", kOpenFilesWanted)
              : StrFormat("raise the hard limit (%d): LimitNOFILE= in systemd, limits.conf, or the "
                          "container's ulimits",
                          facts.open_files_hard)};
}

Check LockedMemoryCheck(const Facts& facts) {
  if (facts.locked_bytes == kUnlimited)
    return {"locked memory", Finding::kOk, "RLIMIT_MEMLOCK is unlimited", ""};
  const bool matters = facts.gpu_device_files || facts.built_with_ucx;
  return {"locked memory", matters ? Finding::kWarning : Finding::kOk,
          StrFormat("RLIMIT_MEMLOCK is %s", BytesText(facts.locked_bytes)),
          matters ? "registered host pages and RDMA count against it: ulimit -l unlimited, or "
                    "LimitMEMLOCK=infinity"
                  : ""};
}

Check MemoryCheck(const Facts& facts) {
  const bool low = facts.memory_free_bytes < facts.memory_bytes / 10;
  return {"memory", low ? Finding::kWarning : Finding::kOk,
          StrFormat("%s available of %s, %d cores", BytesText(facts.memory_free_bytes),
                    BytesText(facts.memory_bytes), facts.cores),
          low ? "less than 10 % is available: slabs of a CPU daemon are host memory" : ""};
}

Check HugePagesCheck(const Facts& facts) {
  const std::string pages =
      StrFormat("transparent huge pages: %s; %d of %d reserved pages free",
                facts.transparent_huge_pages.empty() ? "unknown" : facts.transparent_huge_pages,
                facts.huge_pages_free, facts.huge_pages);
  const bool never = facts.transparent_huge_pages == "never" && facts.huge_pages == 0;
  return {"huge pages", never ? Finding::kNote : Finding::kOk, pages,
          never ? "CPU steps are faster with them: echo madvise > "
                  "/sys/kernel/mm/transparent_hugepage/enabled"
                : ""};
}

void AddGpuChecks(const Facts& facts, std::vector<Check>* checks) {
  if (!facts.gpu_device_files) {
    checks->push_back(
        {"CUDA", Finding::kNote, "no NVIDIA device files: the CPU backend serves", ""});
    return;
  }
  if (!facts.cuda_driver_loads) {
    checks->push_back(
        {"CUDA", Finding::kProblem, "there are NVIDIA device files, but libcuda.so.1 does not load",
         "install the driver's user-space part, or run the container with the NVIDIA runtime"});
  } else if (!facts.built_with_cuda) {
    checks->push_back(
        {"CUDA", Finding::kWarning,
         StrFormat("driver is there (%s), but this build has no CUDA", facts.cuda_driver),
         "build with nvcc on PATH (preset cuda)"});
  } else {
    checks->push_back({"CUDA", Finding::kOk, StrFormat("driver %s", facts.cuda_driver), ""});
  }
  checks->push_back({"MPS", facts.mps ? Finding::kOk : Finding::kNote,
                     facts.mps ? "a control daemon's pipe is there"
                               : "not running: on a shared GPU daemon and ranks take turns",
                     facts.mps ? ""
                               : "nvidia-cuda-mps-control -d shortens a hand-off on one GPU from "
                                 "about 0.3 ms to 0.03 ms"});
  const bool one = facts.max_connections == "1";
  checks->push_back(
      {"connections", one ? Finding::kWarning : Finding::kOk,
       facts.max_connections.empty()
           ? "CUDA_DEVICE_MAX_CONNECTIONS is not set: 8, or 2 under MPS"
           : StrFormat("CUDA_DEVICE_MAX_CONNECTIONS is %s", facts.max_connections),
       one ? "a stream that waits for the daemon then blocks every other: set 8 or more in the job"
           : ""});
}

std::string_view NameOf(Finding finding) {
  switch (finding) {
    case Finding::kOk:
      return "ok";
    case Finding::kNote:
      return "note";
    case Finding::kWarning:
      return "warning";
    case Finding::kProblem:
      return "problem";
  }
  return "unknown";
}

}  // namespace

std::vector<Check> Diagnose(const Facts& facts) {
  std::vector<Check> checks = {DaemonCheck(facts)};
  AddDaemonChecks(facts, &checks);
  checks.push_back(OpenFilesCheck(facts));
  checks.push_back(LockedMemoryCheck(facts));
  checks.push_back(MemoryCheck(facts));
  checks.push_back(HugePagesCheck(facts));
  checks.push_back(
      {"shared memory", facts.memfd ? Finding::kOk : Finding::kProblem,
       facts.memfd ? "memfd_create works" : "memfd_create fails",
       facts.memfd ? "" : "slabs need it: allow it in the container's seccomp profile"});
  AddGpuChecks(facts, &checks);
  checks.push_back({"UCX", Finding::kNote,
                    facts.built_with_ucx ? "built in" : "not built in: daemons on one node only",
                    ""});
  checks.push_back(
      {"NCCL", Finding::kNote, facts.built_with_nccl ? "built in" : "not built in", ""});
  return checks;
}

std::string DoctorJson(const std::vector<Check>& checks) {
  using Json = nlohmann::ordered_json;
  Json json = Json::array();
  for (const Check& check : checks) {
    json.push_back({{"name", check.name},
                    {"finding", NameOf(check.finding)},
                    {"what", check.what},
                    {"change", check.change}});
  }
  return Json({{"checks", json}}).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string DoctorText(const std::vector<Check>& checks) {
  TextTable table({"finding", "check", "seen"});
  for (const Check& check : checks) {
    table.Add({std::string(NameOf(check.finding)), check.name, check.what});
    if (!check.change.empty()) table.Add({"", "", "-> " + check.change});
  }
  return table.ToText();
}

bool HasProblem(const std::vector<Check>& checks) {
  return std::any_of(checks.begin(), checks.end(),
                     [](const Check& check) { return check.finding == Finding::kProblem; });
}

}  // namespace muond
