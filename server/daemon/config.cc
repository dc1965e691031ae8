#include "server/daemon/config.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/daemon/option_table.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"

extern char** environ;

namespace muond {
namespace {

constexpr int64_t kDevicesMax = 256;
constexpr double kSecondsMax = 31'536'000;  // a year
constexpr int64_t kSpinMicrosecondsMax = 1000;

using Text = std::string;

OptionRow Line(Text name, Text value, Text help, std::string* field,
               std::function<absl::Status(const std::string&)> check = nullptr) {
  return {std::move(name), std::move(value), std::move(help),
          [field, check](const std::string& text) {
            if (check != nullptr) {
              if (auto status = check(text); !status.ok()) return status;
            }
            *field = text;
            return absl::OkStatus();
          },
          [field] { return *field; }};
}

OptionRow Switch(Text name, Text help, bool* field, bool hidden = false) {
  return {std::move(name),
          "",
          std::move(help),
          [field](const std::string& text) {
            const auto value = ParseBool(text);
            if (value.ok()) *field = *value;
            return value.status();
          },
          [field] { return std::string(*field ? "true" : "false"); },
          hidden};
}

template <typename T>
OptionRow Whole(Text name, Text value, Text help, T* field, int64_t least, int64_t most,
                bool hidden = false) {
  return {std::move(name),
          std::move(value),
          std::move(help),
          [field, least, most](const std::string& text) {
            const auto value = ParseInteger(text, least, most);
            if (value.ok()) *field = static_cast<T>(*value);
            return value.status();
          },
          [field] { return absl::StrCat(*field); },
          hidden};
}

OptionRow Bytes(Text name, Text help, uint64_t* field) {
  return {std::move(name), "BYTES", std::move(help),
          [field](const std::string& text) {
            const auto value = ParseBytes(text);
            if (value.ok()) *field = *value;
            return value.status();
          },
          [field] { return absl::StrCat(*field); }};
}

OptionRow Seconds(Text name, Text help, absl::Duration* field) {
  return {std::move(name), "SECONDS", std::move(help),
          [field](const std::string& text) {
            const auto value = ParseNumber(text, 0, kSecondsMax);
            if (value.ok()) *field = absl::Seconds(*value);
            return value.status();
          },
          [field] { return absl::StrCat(absl::ToDoubleSeconds(*field)); }};
}

OptionRow Microseconds(Text name, Text help, absl::Duration* field) {
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
  const auto optional_loopback = [](const std::string& text) {
    return text.empty() ? absl::OkStatus() : CheckLoopback(text);
  };
  const auto metrics_address = [](const std::string& text) {
    return text == "auto" || text == "off" ? absl::OkStatus() : HostOf(text).status();
  };
  return {
      Line("socket_dir", "DIRECTORY",
           "Where the sockets are. Created with mode 0700; one daemon per directory. Default: "
           "$XDG_RUNTIME_DIR/muond, "
           "or /tmp/muond-UID.",
           &c->socket_dir),
      Line("listen_tcp", "HOST:PORT",
           "A TCP door for gRPC beside the Unix socket, on loopback only. Port 0 takes a free one.",
           &c->listen_tcp, optional_loopback),
      Line("metrics_listen", "HOST:PORT",
           "Where /metrics, /healthz, /readyz and /status are. auto: 127.0.0.1:9478, or any free "
           "port with --standalone. off: nowhere. Beyond loopback (0.0.0.0:9478) /status, which "
           "names jobs, is not served.",
           &c->metrics_listen, metrics_address),
      Line("coordinator", "ENDPOINT",
           "gRPC endpoint of the coordinator; embedded: one inside this daemon.", &c->coordinator,
           [](const std::string& text) {
             return text.empty()
                        ? absl::InvalidArgumentError("an endpoint, or embedded, is expected")
                        : absl::OkStatus();
           }),
      Line("state_dir", "DIRECTORY",
           "Where the embedded coordinator keeps its catalogue (SQLite). Without it: in memory.",
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
      Whole("cpu_devices", "COUNT", "CPU backend: that many devices, each with streams of its own.",
            &c->cpu_devices, 1, kDevicesMax),
      Bytes("cpu_memory_bytes",
            "CPU backend: memory of each device (KiB, MiB, GiB, TiB may follow). 0: the machine's "
            "memory divided by the "
            "devices.",
            &c->cpu_memory_bytes),
      Microseconds("spin_us",
                   "How long a waiting thread (step loop, CPU devices) looks before it sleeps, at "
                   "most; it looks less "
                   "where waits are longer or cores are wanted. 0: it sleeps at once.",
                   &c->spin),
      Bytes("workspace_bytes",
            "Workspace of each device at most. 0: what the largest matrix needs.",
            &c->workspace_bytes),
      {"arena_share", "SHARE", "Spare slots and places: that many bytes per parameter held.",
       [c](const std::string& text) {
         const auto value = ParseNumber(text, 0, 64);
         if (value.ok()) c->arena_share = *value;
         return value.status();
       },
       [c] { return absl::StrCat(c->arena_share); }},
      Switch("standalone",
             "The daemon of one job: the coordinator inside, the runtime directory removed at the "
             "end; without a lifeline "
             "it ends when its last job has gone.",
             &c->standalone),
      Seconds("job_lease_s", "How long the state of a job without ranks is kept.", &c->job_lease),
      Seconds("join_timeout_s", "How long a rank waits for the others to join, at most.",
              &c->join_timeout),
      Seconds("drain_timeout_s", "After SIGTERM: how long running jobs may go on.",
              &c->drain_timeout),
      Line("log_level", "LEVEL", "Least severity that is logged: debug, info, warning, error.",
           &c->log_level, [](const std::string& text) { return ParseSeverity(text).status(); }),
      Line("log_format", "FORMAT", "text or json; one line per state change, on standard error.",
           &c->log_format, [](const std::string& text) { return ParseLogFormat(text).status(); }),
      Line("step_seconds_buckets", "A,B,...",
           "Upper bounds of the step histogram's buckets, in seconds, rising.",
           &c->step_seconds_buckets,
           [](const std::string& text) { return ParseBuckets(text).status(); }),
      Whole("lifeline_fd", "FD",
            "An inherited pipe or socket: when its other end closes, everything ends. -1: none.",
            &c->lifeline_fd, -1, 1 << 20),
      Whole("ready_fd", "FD",
            "An inherited pipe or socket that gets the line \"ready\" once the daemon serves. -1: "
            "none.",
            &c->ready_fd, -1, 1 << 20),
      Line("fail_point", "NAME:COUNT",
           "For tests: the first stepper (of a recover_ point the second) kills itself at the "
           "COUNT-th passage of that point "
           "(server/daemon/README.md).",
           &c->fail_point,
           [](const std::string& text) {
             auto status = ConfigureFailPoint(text);
             return status.ok() ? ConfigureFailPoint("") : status;
           }),
      Switch("stepper", "", &c->stepper, true),
      Whole("stepper_starts", "COUNT", "", &c->stepper_starts, 0, 1 << 30, true),
  };
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
  if (config.coordinator != "embedded" && !config.state_dir.empty()) {
    return absl::InvalidArgumentError(
        "state_dir is the embedded coordinator's, but coordinator names another one");
  }
  if (config.lifeline_fd >= 0 && config.lifeline_fd == config.ready_fd) {
    return absl::InvalidArgumentError(absl::StrCat(
        "lifeline_fd and ready_fd are both ", config.lifeline_fd, "; two descriptors are needed"));
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

absl::StatusOr<std::string> HostOf(const std::string& host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  if (colon == std::string::npos || colon == 0)
    return absl::InvalidArgumentError("HOST:PORT is expected");
  if (auto port = ParseInteger(host_and_port.substr(colon + 1), 0, 65535); !port.ok())
    return port.status();
  return host_and_port.substr(0, colon);
}

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "[::1]" || host.rfind("127.", 0) == 0;
}

absl::Status CheckLoopback(const std::string& host_and_port) {
  const auto host = HostOf(host_and_port);
  if (!host.ok()) return host.status();
  if (IsLoopback(*host)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "host \"", *host,
      "\" is not loopback (127.x.y.z, [::1] or localhost); there is no TLS to protect others"));
}

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

std::map<std::string, std::string> ProcessEnvironment() {
  std::map<std::string, std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (const size_t equals = text.find('='); equals != std::string::npos) {
      environment[text.substr(0, equals)] = text.substr(equals + 1);
    }
  }
  return environment;
}

absl::StatusOr<Invocation> ReadConfig(const std::vector<std::string>& arguments,
                                      const std::map<std::string, std::string>& environment) {
  Invocation invocation;
  OptionTable table(Rows(&invocation.config));

  // What is about the call rather than the daemon goes first.
  std::vector<std::string> flags;
  std::string file;
  bool child = false;
  if (const auto found = environment.find("MUOND_CONFIG"); found != environment.end())
    file = found->second;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& a = arguments[i];
    if (a == "--help" || a == "-h") {
      invocation.action = Action::kHelp;
      invocation.text = kUsage + table.Help() + kExitCodes;
      return invocation;
    }
    if (a == "--version") {
      invocation.action = Action::kVersion;
      return invocation;
    }
    if (a == "--check-config")
      invocation.action = Action::kCheckConfig;
    else if (a == "--print-config")
      invocation.action = Action::kPrintConfig;
    else if (a.rfind("--config=", 0) == 0)
      file = a.substr(9);
    else if (a == "--config" && i + 1 < arguments.size())
      file = arguments[++i];
    else if (a == "--config")
      return absl::InvalidArgumentError("--config needs a value: FILE");
    else
      flags.push_back(a);
    child = child || a == "--stepper=true";
  }

  // The keeper hands its child every value as a flag: a file edited meanwhile must not change a running daemon.
  if (!child) {
    if (!file.empty()) {
      std::ifstream stream(file);
      if (!stream)
        return absl::InvalidArgumentError(
            absl::StrCat("cannot read the configuration file ", file));
      std::stringstream text;
      text << stream.rdbuf();
      if (auto status = table.SetFromYaml(text.str(), file); !status.ok()) return status;
    }
    auto variables = environment;
    variables.erase("MUOND_CONFIG");
    if (auto status = table.SetFromEnvironment(variables); !status.ok()) return status;
  }
  if (auto status = table.SetFromFlags(flags); !status.ok()) return status;
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
