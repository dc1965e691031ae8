// Config: everything the daemon can be told, from one YAML file, the environment (MUOND_*) and flags; flags win.
// The table of config.cc is the only list of options: --help, --print-config and the checks come from it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/tls_options.h"
#include "server/observe/option_table.h"

namespace muond {

enum class BackendChoice : uint8_t { kAuto = 0, kCpu = 1, kCuda = 2 };

struct Config {
  std::string socket_dir;                // never empty once read
  std::string listen_tcp;                // "host:port"; empty: the Unix socket alone
  TlsOptions tls;                        // of that door, and of calls to other TCP endpoints
  std::string metrics_listen = "auto";   // "host:port", "auto" or "off"
  std::string coordinator = "embedded";  // or its gRPC endpoint
  std::string shard_listen = "off";      // "host:port" for the other daemons of a job, or "off"
  absl::Duration peer_timeout = absl::Seconds(30);
  // Where the daemon's id and the embedded coordinator's catalogue are; empty: in socket_dir, where they end with the daemon.
  std::string state_dir;
  BackendChoice backend = BackendChoice::kAuto;
  std::string cuda_devices;  // as CUDA_VISIBLE_DEVICES has it; empty: as the environment says
  int cpu_devices = 1;
  uint64_t cpu_memory_bytes = 0;  // each; 0: the machine's memory divided by the devices
  uint64_t workspace_bytes =
      0;  // each device; 0: what the largest matrix needs, on a GPU a 64th of its memory
  absl::Duration spin =
      absl::Microseconds(200);  // how long a waiting thread looks before it sleeps
  double arena_share = 1.0;     // bytes of spare slots and places per parameter held
  bool standalone = false;
  absl::Duration job_lease = absl::Seconds(600);
  absl::Duration join_timeout = absl::Seconds(300);
  absl::Duration drain_timeout = absl::Seconds(30);
  std::string log_level = "info";
  std::string log_format = "text";
  std::string
      step_seconds_buckets;  // of the histogram, as numbers with commas; empty: the built-in ones
  int lifeline_fd = -1;
  int ready_fd = -1;
  std::string fail_point;

  bool stepper = false;  // this process is the keeper's child
  uint32_t stepper_starts = 0;
};

struct Invocation {
  Action action = Action::kRun;
  Config config;
  std::string text;  // kHelp (also for --list-fail-points), kPrintConfig: what to print
  std::vector<std::string> stepper_flags;  // what the stepper needs to have this very configuration
};

// `arguments` without argv[0]. INVALID_ARGUMENT: see option_table.h.
absl::StatusOr<Invocation> ReadConfig(const std::vector<std::string>& arguments,
                                      const std::map<std::string, std::string>& environment);
absl::StatusOr<std::vector<double>> ParseBuckets(const std::string& text);

}  // namespace muond
