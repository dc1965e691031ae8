#include "server/daemon/backends.h"

#include <cstdlib>

#include "server/observe/log.h"

namespace muond {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> TryCuda([[maybe_unused]] const Config& config) {
#ifdef MUOND_CUDA_ROOMS
  // Blocked stream waits eat hardware queues; read by CUDA when it starts.
  ::setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 1);
  if (!config.cuda_devices.empty())
    ::setenv("CUDA_VISIBLE_DEVICES", config.cuda_devices.c_str(), 1);
  return CreateCudaBackend();
#else
  return absl::UnavailableError("this build has no CUDA backend");
#endif
}

absl::StatusOr<std::unique_ptr<Ops>> OpsOf([[maybe_unused]] Device& device) {
#ifdef MUOND_CUDA_ROOMS
  if (device.info().kind == DeviceKind::kCuda) return CreateCudaOps(device);
#endif
  return CreateCpuOps();
}

}  // namespace

absl::StatusOr<ChosenBackend> ChooseBackend(const Config& config) {
  if (config.backend != BackendChoice::kCpu) {
    auto cuda = TryCuda(config);
    if (cuda.ok()) return ChosenBackend{*std::move(cuda), OpsOf, "cuda"};
    if (config.backend == BackendChoice::kCuda) return cuda.status();
    Log(Severity::kInfo, "backend.no_cuda", {{"reason", cuda.status()}});
  }
  CpuBackendOptions options;
  options.devices = config.cpu_devices;
  options.memory_bytes_each = config.cpu_memory_bytes;
  options.spin = absl::ToChronoNanoseconds(config.spin);
  auto cpu = CreateCpuBackend(options);
  if (!cpu.ok()) return cpu.status();
  return ChosenBackend{*std::move(cpu), OpsOf, "cpu"};
}

}  // namespace muond
