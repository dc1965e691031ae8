#include "kernels/runtime/cuda/driver.h"

#include "absl/strings/str_format.h"
#include "kernels/runtime/cuda/cuda_error.h"

namespace muond {
namespace {

template <typename Function>
absl::Status Find(const char* name, unsigned version, Function* out) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &entry, version, cudaEnableDefault, &found);
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        absl::StrFormat("driver entry point %s: %s", name, cudaGetErrorName(error)));
  }
  if (found != cudaDriverEntryPointSuccess || entry == nullptr) {
    return absl::UnavailableError(absl::StrFormat(
        "the CUDA driver has no %s as of version %u (query result %d)", name, version, found));
  }
  *out = reinterpret_cast<Function>(entry);
  return absl::OkStatus();
}

absl::StatusOr<const Driver*> Load() {
  static Driver driver;
  absl::Status status;
  auto find = [&status](const char* name, unsigned version, auto* out) {
    if (status.ok()) status = Find(name, version, out);
  };
  find("cuMemGetAllocationGranularity", 10020, &driver.mem_granularity);
  find("cuMemCreate", 10020, &driver.mem_create);
  find("cuMemRelease", 10020, &driver.mem_release);
  find("cuMemAddressReserve", 10020, &driver.address_reserve);
  find("cuMemAddressFree", 10020, &driver.address_free);
  find("cuMemMap", 10020, &driver.mem_map);
  find("cuMemUnmap", 10020, &driver.mem_unmap);
  find("cuMemGetAddressRange", 3020, &driver.address_range);
  find("cuMemSetAccess", 10020, &driver.set_access);
  find("cuMemExportToShareableHandle", 10020, &driver.export_handle);
  find("cuMemImportFromShareableHandle", 10020, &driver.import_handle);
  find("cuStreamWriteValue64", 11070, &driver.stream_write);
  find("cuStreamWaitValue64", 11070, &driver.stream_wait);
  if (!status.ok()) return status;
  return &driver;
}

}  // namespace

absl::StatusOr<const Driver*> LoadDriver() {
  static const absl::StatusOr<const Driver*>* const loaded =
      new absl::StatusOr<const Driver*>(Load());
  return *loaded;
}

}  // namespace muond
