#include "server/daemon/config.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "proto/stubs/endpoint.h"
#include "server/observe/fail_point.h"
#include "server/observe/option_rows.h"
#include "server/observe/tls_rows.h"

namespace muond {
namespace {

constexpr int64_t kDevicesMax = 256;
constexpr int64_t kSpinMicrosecondsMax = 1000;

OptionRow Microseconds(std::string name, std::string help, absl::Duration* field) {
  return {std::move(name), "MICROSECONDS", std::move(help),
          [field](const std::string& text) {
            const auto value = ParseInteger(text, 0, kSpinMicrosecondsMax);
            if (value.ok()) *field = absl::Microseconds(*value);
            return value.status();
          },
          [field] { return absl::StrCat(absl::ToInt64Microseconds(*field)); }};
}

constexpr const char* kBackends[] = {"auto", "cpu", "cuda"};

std::vector<OptionRow> Rows(Config* c) {
  const auto optional_address = [](const std::string& text) {
    return text.empty() ? absl::OkStatus() : HostOf(text).status();
  };
  const auto metrics_address = [](const std::string& text) {
    return text == "auto" || text == "off" ? absl::OkStatus() : HostOf(text).status();
  };
  std::vector<OptionRow> rows = {
      LineOption(
          "socket_dir", "DIRECTORY",
          "Where the sockets are. Created with mode 0700; one daemon per directory. Default: "
          "$XDG_RUNTIME_DIR/muond, "
          "or /tmp/muond-UID.",
          &c->socket_dir),
      LineOption("listen_tcp", "HOST:PORT",
                 "A TCP door for gRPC beside the Unix socket; beyond loopback with TLS. Port 0 "
                 "takes a free "
                 "one.",
                 &c->listen_tcp, optional_address),
      LineOption("metrics_listen", "HOST:PORT",
                 "Where /metrics, /healthz, /readyz and /status are, on loopback only. auto: "
                 "127.0.0.1:9478, or any free port "
                 "with --standalone. off: nowhere.",
                 &c->metrics_listen, metrics_address),
      LineOption(
          "coordinator", "ENDPOINT",
          "gRPC endpoint of the coordinator, or of several that stand by for one another, with "
          "commas between; embedded: one inside this daemon.",
          &c->coordinator,
          [](const std::string& text) {
            return text.empty()
                       ? absl::InvalidArgumentError("an endpoint, or embedded, is expected")
                       : absl::OkStatus();
          }),
      LineOption(
          "state_dir", "DIRECTORY",
          "Where the daemon's id and the embedded coordinator's catalogue (SQLite) are kept. "
          "Without it: in the socket directory, where they end with the daemon.",
          &c->state_dir),
      {"backend", "auto|cpu|cuda",
       "What computes. auto: CUDA where this build and this machine have it, else CPU.",
       [c](const std::string& text) {
         for (int i = 0; i < 3; ++i) {
           if (text != kBackends[i]) continue;
           c->backend = static_cast<BackendChoice>(i);
           return absl::OkStatus();
         }
         return absl::InvalidArgumentError("auto, cpu or cuda is expected");
       },
       [c] { return std::string(kBackends[static_cast<int>(c->backend)]); }},
      LineOption("cuda_devices", "UUID,...",
                 "CUDA backend: these GPUs alone, by UUID (GPU-...) or number. Without it: what "
                 "CUDA_VISIBLE_DEVICES leaves.",
                 &c->cuda_devices),
      WholeOption("cpu_devices", "COUNT",
                  "CPU backend: that many devices, each with streams of its own.", &c->cpu_devices,
                  1, kDevicesMax),
      BytesOption(
          "cpu_memory_bytes",
          "CPU backend: memory of each device (KiB, MiB, GiB, TiB may follow). 0: the machine's "
          "memory divided by the "
          "devices.",
          &c->cpu_memory_bytes),
      Microseconds("spin_us",
                   "How long a waiting thread (step loop, CPU devices) looks before it sleeps, at "
                   "most; it looks less "
                   "where waits are longer or cores are wanted. 0: it sleeps at once.",
                   &c->spin),
      BytesOption("workspace_bytes",
                  "Workspace of each device, for several matrices at once; at least what the "
                  "largest matrix needs. 0: that, and on a GPU a 64th of its memory.",
                  &c->workspace_bytes),
      {"arena_share", "SHARE", "Spare slots and places: that many bytes per parameter held.",
       [c](const std::string& text) {
         const auto value = ParseNumber(text, 0, 64);
         if (value.ok()) c->arena_share = *value;
         return value.status();
       },
       [c] { return absl::StrCat(c->arena_share); }},
      SwitchOption(
          "standalone",
          "The daemon of one job: the coordinator inside, the runtime directory removed at the "
          "end; without a lifeline "
          "it ends when its last job has gone.",
          &c->standalone),
      LineOption("shard_listen", "HOST:PORT",
                 "Where the other daemons of a job reach this one, for jobs whose ranks are at "
                 "several daemons. Port "
                 "0: any free one, kept for the daemon's life. off: such jobs are refused here.",
                 &c->shard_listen,
                 [](const std::string& text) {
                   return text == "off" || absl::StrContains(text, ':')
                              ? absl::OkStatus()
                              : absl::InvalidArgumentError("HOST:PORT or off is expected");
                 }),
      SecondsOption("peer_timeout_s",
                    "A job of several daemons ends when one of them is out of reach for this long.",
                    &c->peer_timeout),
      SecondsOption("job_lease_s", "How long the state of a job without ranks is kept.",
                    &c->job_lease),
      SecondsOption("join_timeout_s", "How long a rank waits for the others to join, at most.",
                    &c->join_timeout),
      SecondsOption("drain_timeout_s", "After SIGTERM: how long running jobs may go on.",
                    &c->drain_timeout),
      LogLevelOption(&c->log_level),
      LogFormatOption(&c->log_format),
      LineOption("step_seconds_buckets", "A,B,...",
                 "Upper bounds of the step histogram's buckets, in seconds, rising.",
                 &c->step_seconds_buckets,
                 [](const std::string& text) { return ParseBuckets(text).status(); }),
      WholeOption(
          "lifeline_fd", "FD",
          "An inherited pipe or socket: when its other end closes, everything ends. -1: none.",
          &c->lifeline_fd, -1, 1 << 20),
      WholeOption(
          "ready_fd", "FD",
          "An inherited pipe or socket that gets the line \"ready\" once the daemon serves. -1: "
          "none.",
          &c->ready_fd, -1, 1 << 20),
      LineOption(
          "fail_point", "NAME:COUNT,...",
          "For tests: the first stepper kills itself at the COUNT-th passage of that point; after "
          "a comma, its successor's. --list-fail-points prints the names "
          "(server/observe/fail_point.h).",
          &c->fail_point,
          [](const std::string& text) {
            auto status = ConfigureFailPoint(text);
            return status.ok() ? ConfigureFailPoint("") : status;
          }),
      SwitchOption("stepper", "", &c->stepper, true),
      WholeOption("stepper_starts", "COUNT", "", &c->stepper_starts, 0, 1 << 30, true),
  };
  const std::vector<OptionRow> tls = TlsRows(&c->tls);
  rows.insert(rows.begin() + 2, tls.begin(), tls.end());  // after the TCP door
  return rows;
}

std::string DefaultSocketDirectory(const std::map<std::string, std::string>& environment) {
  const auto runtime = environment.find("XDG_RUNTIME_DIR");
  if (runtime != environment.end() && !runtime->second.empty()) return runtime->second + "/muond";
  return absl::StrCat("/tmp/muond-", ::geteuid());
}

absl::Status CheckTogether(const Config& config) {
  if (config.standalone && config.coordinator != "embedded") {
    return absl::InvalidArgumentError(absl::StrCat(
        "standalone runs the coordinator inside, but coordinator is \"", config.coordinator, "\""));
  }
  if (config.lifeline_fd >= 0 && config.lifeline_fd == config.ready_fd) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lifeline_fd and ready_fd are both ", config.lifeline_fd, "; two descriptors are needed"));
  }
  // A restarted stepper serves its jobs whatever has become of the files meanwhile.
  if (config.stepper) return absl::OkStatus();
  if (auto status = CheckDoorTls(config.listen_tcp, config.tls, absl::Now()); !status.ok())
    return status;
  if (config.coordinator == "embedded") return absl::OkStatus();
  const auto coordinators = SplitEndpoints(config.coordinator);
  if (!coordinators.ok()) return coordinators.status();
  for (const std::string& endpoint : *coordinators) {
    if (auto status = CheckCallTls(endpoint, config.tls, absl::Now()); !status.ok()) return status;
  }
  return absl::OkStatus();
}

constexpr const char* kUsage =
    "muond: the optimizer-step daemon of a node.\n\n"
    "usage: muond [--config FILE] [flags]\n\n"
    "Each option below can be given as a flag, as a key of the YAML file (with _ for -) or in the "
    "environment "
    "(MUOND_NAME).\nFlags win over the environment, the environment over the file; unknown names "
    "are errors.\n\n"
    "  --config FILE       read options from this YAML file (MUOND_CONFIG)\n"
    "  --check-config      say whether the configuration is valid, and end\n"
    "  --print-config      print every option, its value and where it comes from, and end\n"
    "  --version           print the version, and end\n"
    "  --help              print this, and end\n\n";
constexpr const char* kExitCodes =
    "\nexit codes: 0 drained, or the lifeline ended; 1 cannot start; 2 wrong configuration; 3 the "
    "stepper died again and "
    "again;\n4 jobs were cut off at the end.\n";

}  // namespace

absl::StatusOr<std::vector<double>> ParseBuckets(const std::string& text) {
  std::vector<double> buckets;
  if (text.empty()) return buckets;
  for (const auto part : absl::StrSplit(text, ',')) {
    double value = 0;
    if (!absl::SimpleAtod(part, &value)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", part, "\" is no number"));
    }
    if (!(value > 0) || value > 1e9 || (!buckets.empty() && value <= buckets.back())) {
      return absl::InvalidArgumentError(absl::StrCat("bucket ", value, " is not above ",
                                                     buckets.empty() ? 0.0 : buckets.back(),
                                                     " and finite"));
    }
    buckets.push_back(value);
  }
  if (buckets.size() > 64) {
    return absl::InvalidArgumentError(
        absl::StrCat(buckets.size(), " buckets, at most 64 are allowed"));
  }
  return buckets;
}

absl::StatusOr<Invocation> ReadConfig(const std::vector<std::string>& arguments,
                                      const std::map<std::string, std::string>& environment) {
  Invocation invocation;
  OptionTable table(Rows(&invocation.config), "MUOND_", /*shared=*/true);
  const auto given = [&arguments](const char* flag) {
    return std::find(arguments.begin(), arguments.end(), flag) != arguments.end();
  };
  if (given("--list-fail-points")) {
    invocation.action = Action::kHelp;
    for (const std::string_view point : kFailPoints)
      absl::StrAppend(&invocation.text, std::string(point), "\n");
    return invocation;
  }
  // The keeper hands its child every value as a flag: a file edited meanwhile must not change a running daemon.
  const auto action = table.Read(arguments, environment, given("--stepper=true"));
  if (!action.ok()) return action.status();
  invocation.action = *action;
  if (*action == Action::kVersion) return invocation;
  if (*action == Action::kHelp) {
    invocation.text = kUsage + table.Help() + kExitCodes;
    return invocation;
  }
  if (invocation.config.socket_dir.empty())
    invocation.config.socket_dir = DefaultSocketDirectory(environment);
  if (auto status = CheckTogether(invocation.config); !status.ok()) return status;

  if (invocation.action == Action::kPrintConfig) invocation.text = table.PrintYaml();
  for (const std::string& flag : table.AsFlags()) {
    if (flag.rfind("--stepper", 0) != 0) invocation.stepper_flags.push_back(flag);
  }
  invocation.stepper_flags.push_back("--stepper=true");
  // `invocation` is about to be moved; the table's rows point into it and end here.
  return invocation;
}

}  // namespace muond
