// CudaOps: the verbs on one GPU. Element-wise passes are this folder's kernels; products go to the sm_90a kernels on
// Hopper (products.h) and to cuBLASLt elsewhere, or wherever CudaOpsOptions says.
// Threads: one caller at a time per stream.   Lifetime: the device outlives the ops, the ops outlive its streams' work.
// Errors: on the stream, sticky. INVALID_ARGUMENT for blocks outside their matrix or operands that no product takes.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/cuda/cuda_device.h"

namespace muond {

enum class ProductPath : uint8_t {
  kAuto,     // by compute capability
  kLibrary,  // cuBLASLt, on any GPU
};

struct CudaOpsOptions {
  ProductPath products = ProductPath::kAuto;
  bool strided_batches =
      true;  // of the library path: equal products at equal distances in one call
};

// The environment's: MUOND_CUDA_PRODUCTS = auto (default) or library. INVALID_ARGUMENT names any other value.
absl::StatusOr<CudaOpsOptions> CudaOpsOptionsFromEnvironment();

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOpsWith(CudaDevice& device,
                                                       const CudaOpsOptions& options);

// Puts `size_bytes` (a multiple of 8, both ends aligned to 8) of host memory at `destination` in stream order. The
// host memory is free when the call returns; nothing blocks, whatever the stream waits for.
void PutBytes(Stream& stream, void* destination, const void* bytes, size_t size_bytes);

// `out[i]` = shared with update_scales[i], in stream order; all pointers are device memory. `lr` and `gradient_scale`, where
// not null, are read when it runs, in place of the shared values.
void SpreadScalars(Stream& stream, const MuonScalars& shared, const float* lr,
                   const float* gradient_scale, const double* update_scales, int64_t count,
                   MuonScalars* out);

// What the graphs captured on `stream` so far point into: lists of products and launch scratch. Without this call it stays as
// long as the ops. The object frees it; no such graph may run then. Nothing may be under way on `stream`.
std::shared_ptr<void> TakeCaptured(Ops& cuda_ops, cudaStream_t stream);

}  // namespace muond
