// Scatter, Flip, and small host values to device memory.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

template <bool kWhole>
__device__ __forceinline__ void DoTile(const ScatterItem& item, const Tile& tile) {
  constexpr int kGroups = 4;
  constexpr int kStride = kThreads * kVector;
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kGroups; ++round) {
    const int64_t first = tile.begin + round * kGroups * kStride + threadIdx.x * kVector;
    Four x[kGroups];
    ReadPlane<kWhole>(item.from, item.extent, first, kStride, x);
#pragma unroll
    for (int i = 0; i < kGroups; ++i)
      WritePlane<kWhole>(item.to, item.extent, first + i * kStride, x[i]);
  }
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    ScatterKernel(const __grid_constant__ List<kBytes> list) {
  const ScatterItem& item =
      FindItem(list.template item_array<ScatterItem>(), list.items, blockIdx.x);
  const Tile tile(item.extent);
  if (tile.full && IsWhole(item.from) && IsWhole(item.to)) {
    DoTile<true>(item, tile);
  } else {
    DoTile<false>(item, tile);
  }
}

__global__ void FlipKernel(uint64_t* word, uint64_t value, const uint64_t* mark) {
  if (mark != nullptr && *reinterpret_cast<const volatile uint64_t*>(mark) != 0) return;
  __threadfence_system();
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

template <int kBytes>
struct Bytes {
  uint64_t words[kBytes / 8];
};

template <int kBytes>
__global__ void PutKernel(const __grid_constant__ Bytes<kBytes> bytes, uint64_t* destination,
                          int words) {
  for (int i = threadIdx.x; i < words; i += blockDim.x) destination[i] = bytes.words[i];
}

}  // namespace

template <int kBytes>
cudaError_t LaunchScatter(cudaStream_t stream, const List<kBytes>& list, int tiles) {
  ScatterKernel<kBytes><<<tiles, kThreads, 0, stream>>>(list);
  return cudaGetLastError();
}
template cudaError_t LaunchScatter(cudaStream_t, const List<kSmallListBytes>&, int);
template cudaError_t LaunchScatter(cudaStream_t, const List<kLargeListBytes>&, int);

cudaError_t LaunchFlip(cudaStream_t stream, uint64_t* word, uint64_t value, const uint64_t* mark) {
  FlipKernel<<<1, 1, 0, stream>>>(word, value, mark);
  return cudaGetLastError();
}

template <int kBytes>
static cudaError_t Put(cudaStream_t stream, void* destination, const void* bytes, int size_bytes) {
  Bytes<kBytes> list;
  for (int i = 0; i < size_bytes / 8; ++i) list.words[i] = static_cast<const uint64_t*>(bytes)[i];
  PutKernel<kBytes>
      <<<1, 256, 0, stream>>>(list, static_cast<uint64_t*>(destination), size_bytes / 8);
  return cudaGetLastError();
}

cudaError_t LaunchPut(cudaStream_t stream, void* destination, const void* bytes, int size_bytes) {
  if (size_bytes > kLargeListBytes || size_bytes % 8 != 0) return cudaErrorInvalidValue;
  if (size_bytes <= kSmallListBytes)
    return Put<kSmallListBytes>(stream, destination, bytes, size_bytes);
  return Put<kLargeListBytes>(stream, destination, bytes, size_bytes);
}

}  // namespace muond::elementwise
