#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/cpu/cpu_device.h"
#include "kernels/runtime/cpu/machine.h"

namespace muond {
namespace {

constexpr int kDevicesMax = 1024;

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(std::vector<std::unique_ptr<Device>> devices)
      : devices_(std::move(devices)) {}
  const std::vector<std::unique_ptr<Device>>& devices() const override { return devices_; }

 private:
  const std::vector<std::unique_ptr<Device>> devices_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options) {
  if (options.devices < 1 || options.devices > kDevicesMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d CPU devices asked for, 1 to %d are allowed", options.devices, kDevicesMax));
  }
  uint64_t memory_bytes = options.memory_bytes_each;
  if (memory_bytes == 0)
    memory_bytes = MachineMemoryBytes() / static_cast<uint64_t>(options.devices);
  std::vector<std::unique_ptr<Device>> devices;
  for (int ordinal = 0; ordinal < options.devices; ++ordinal) {
    DeviceInfo info;
    info.kind = DeviceKind::kCpu;
    info.ordinal = ordinal;
    info.uuid = absl::StrCat("cpu-", ordinal);
    info.name = CpuName();
    info.architecture = CpuArchitecture();
    info.memory_bytes = memory_bytes;
    devices.push_back(std::make_unique<CpuDevice>(std::move(info), options.spin));
  }
  return std::make_unique<CpuBackend>(std::move(devices));
}

}  // namespace muond
