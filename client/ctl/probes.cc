#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "client/ctl/doctor.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/stubs/endpoint.h"

namespace muond {
namespace {

std::string FirstLine(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "MemTotal:  123 kB" of /proc/meminfo.
uint64_t MemoryInfo(const std::string& key) {
  std::ifstream file("/proc/meminfo");
  std::string name;
  uint64_t value = 0;
  for (std::string rest; file >> name >> value; std::getline(file, rest)) {
    if (name == key + ":") return value;
  }
  return 0;
}

uint64_t Limit(rlim_t limit) {
  return limit == RLIM_INFINITY ? std::numeric_limits<uint64_t>::max() : limit;
}

void AskDaemon(const std::string& endpoint, const StubOptions& options, Facts* facts) {
  if (IsUnixEndpoint(endpoint)) {
    const std::string path(SocketPathOf(endpoint));
    std::error_code code;
    facts->socket_exists = std::filesystem::is_socket(path, code);
    facts->socket_usable = access(path.c_str(), R_OK | W_OK) == 0;
  }
  const auto stub = DaemonStub::Create(endpoint, options);
  if (!stub.ok()) {
    facts->reached = stub.status();
    return;
  }
  absl::StatusOr<DaemonStatus> status = (*stub)->GetStatus();
  facts->reached = status.status();
  if (status.ok()) facts->daemon = *std::move(status);
}

void LookAtMachine(Facts* facts) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    facts->open_files = Limit(limit.rlim_cur);
    facts->open_files_hard = Limit(limit.rlim_max);
  }
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) facts->locked_bytes = Limit(limit.rlim_cur);
  facts->memory_bytes = MemoryInfo("MemTotal") * 1024;
  facts->memory_free_bytes = MemoryInfo("MemAvailable") * 1024;
  facts->huge_pages = MemoryInfo("HugePages_Total");
  facts->huge_pages_free = MemoryInfo("HugePages_Free");
  const std::string modes =
      FirstLine("/sys/kernel/mm/transparent_hugepage/enabled");  // "always [madvise] never"
  if (const size_t open = modes.find('['), close = modes.find(']');
      open != std::string::npos && close != std::string::npos) {
    facts->transparent_huge_pages = modes.substr(open + 1, close - open - 1);
  }
  if (const int descriptor = memfd_create("muonctl-doctor", MFD_CLOEXEC); descriptor >= 0) {
    facts->memfd = true;
    close(descriptor);
  }
  facts->cores = static_cast<int>(std::thread::hardware_concurrency());
}

void LookAtGpus(Facts* facts) {
  std::error_code code;
  facts->gpu_device_files = std::filesystem::exists("/dev/nvidiactl", code);
  if (void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL); driver != nullptr) {
    facts->cuda_driver_loads = true;
    dlclose(driver);
  }
  facts->cuda_driver = FirstLine("/proc/driver/nvidia/version");
  const char* const pipe = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  facts->mps = std::filesystem::exists(
      std::filesystem::path(pipe != nullptr ? pipe : "/tmp/nvidia-mps") / "control", code);
  const char* const connections = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
  if (connections != nullptr) facts->max_connections = connections;
#ifdef MUOND_BUILT_WITH_CUDA
  facts->built_with_cuda = true;
#endif
#ifdef MUOND_BUILT_WITH_UCX
  facts->built_with_ucx = true;
#endif
#ifdef MUOND_BUILT_WITH_NCCL
  facts->built_with_nccl = true;
#endif
}

}  // namespace

Facts GatherFacts(const std::string& endpoint, const StubOptions& options) {
  Facts facts;
  facts.endpoint = endpoint;
  AskDaemon(endpoint, options, &facts);
  LookAtMachine(&facts);
  LookAtGpus(&facts);
  return facts;
}

}  // namespace muond
