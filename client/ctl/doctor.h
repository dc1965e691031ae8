// doctor: what of this machine, and of the daemon, stands in the way. Facts are gathered by probes.cc; Diagnose judges
// them and is a pure function.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/stubs/stub_options.h"
#include "proto/types/daemon_calls.h"

namespace muond {

struct Facts {
  std::string endpoint;
  absl::Status reached;                // why the daemon does not answer
  std::optional<DaemonStatus> daemon;  // when it does
  bool socket_exists = false,
       socket_usable = false;  // of a Unix endpoint: there, and ours to write

  uint64_t open_files = 0;  // RLIMIT_NOFILE, soft
  uint64_t open_files_hard = 0;
  uint64_t locked_bytes = 0;  // RLIMIT_MEMLOCK, soft; UINT64_MAX: unlimited
  uint64_t memory_bytes = 0, memory_free_bytes = 0;
  uint64_t huge_pages = 0, huge_pages_free = 0;
  std::string transparent_huge_pages;  // "always", "madvise", "never"; empty: unknown
  bool memfd = false;                  // memfd_create works
  int cores = 0;

  bool gpu_device_files = false;   // /dev/nvidiactl
  bool cuda_driver_loads = false;  // libcuda.so.1
  std::string cuda_driver;         // its version line
  bool mps = false;                // an MPS control pipe
  std::string max_connections;     // CUDA_DEVICE_MAX_CONNECTIONS of this environment
  bool built_with_cuda = false, built_with_ucx = false, built_with_nccl = false;
};

enum class Finding : uint8_t { kOk, kNote, kWarning, kProblem };
struct Check {
  std::string name;
  Finding finding = Finding::kOk;
  std::string what;    // what was seen, with numbers
  std::string change;  // what to do about it; empty when nothing
};

std::vector<Check> Diagnose(const Facts& facts);
Facts GatherFacts(const std::string& endpoint, const StubOptions& options);

std::string DoctorJson(const std::vector<Check>& checks);
std::string DoctorText(const std::vector<Check>& checks);
bool HasProblem(const std::vector<Check>& checks);

}  // namespace muond
