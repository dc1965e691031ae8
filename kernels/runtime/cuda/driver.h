// Driver: the entry points of libcuda that the runtime library does not offer, taken at run time.
// Nothing links libcuda, so that one binary starts on machines without a driver.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "absl/status/statusor.h"

namespace muond {

struct Driver {
  PFN_cuMemGetAllocationGranularity_v10020 mem_granularity;
  PFN_cuMemCreate_v10020 mem_create;
  PFN_cuMemRelease_v10020 mem_release;
  PFN_cuMemAddressReserve_v10020 address_reserve;
  PFN_cuMemAddressFree_v10020 address_free;
  PFN_cuMemMap_v10020 mem_map;
  PFN_cuMemUnmap_v10020 mem_unmap;
  PFN_cuMemGetAddressRange_v3020 address_range;
  PFN_cuMemSetAccess_v10020 set_access;
  PFN_cuMemExportToShareableHandle_v10020 export_handle;
  PFN_cuMemImportFromShareableHandle_v10020 import_handle;
  PFN_cuStreamWriteValue64_v11070 stream_write;
  PFN_cuStreamWaitValue64_v11070 stream_wait;
};

// The table, loaded once. UNAVAILABLE with the name of the first entry point that the driver lacks.
absl::StatusOr<const Driver*> LoadDriver();

// The numbers of CUresult and cudaError_t agree.
inline cudaError_t ToRuntimeError(CUresult result) { return static_cast<cudaError_t>(result); }

}  // namespace muond
