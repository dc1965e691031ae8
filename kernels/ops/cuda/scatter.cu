// Scatter, Flip, and small values to device memory.
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/tiles.cuh"

namespace muond::elementwise {
namespace {

template <Way kWay, int kGroups>
__device__ __forceinline__ void DoRound(const TilePlane& from, const TilePlane& to, int round) {
  Four x[kGroups];
  from.Read<kWay>(round, x);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) to.Write<kWay>(ChunkOf(round, kGroups) + i * kWarps, x[i]);
}

constexpr int kGroups = 4;
constexpr int kRounds = kVectorsPerThread / kGroups;

template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    ScatterKernel(const __grid_constant__ List<kBytes> list) {
  __shared__ MapRow from_map, to_map;
  const ScatterItem& item =
      FindItem(list.template item_array<ScatterItem>(), list.items, blockIdx.x);
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
  if (tile.full && IsWhole(item.from) && IsWhole(item.to)) {
    const TilePlane from(item.from, extent, tile), to(item.to, extent, tile);
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) DoRound<Way::kWhole, kGroups>(from, to, round);
    return;
  }
  MapPlane(from_map, item.from, extent, tile);
  MapPlane(to_map, item.to, extent, tile);
  __syncthreads();
  const TilePlane from(item.from, extent, tile, &from_map), to(item.to, extent, tile, &to_map);
#pragma unroll 1
  for (int round = 0; round < kRounds; ++round) {
    if (from.IsMapped<kGroups>(round) && to.IsMapped<kGroups>(round)) {
      DoRound<Way::kMapped, kGroups>(from, to, round);
    } else {
      for (int i = 0; i < kGroups; ++i) DoRound<Way::kSlow, 1>(from, to, round * kGroups + i);
    }
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

__global__ void SpreadScalarsKernel(MuonScalars shared, const float* lr,
                                    const float* gradient_scale, const double* update_scales,
                                    int64_t count, MuonScalars* out) {
  if (lr != nullptr) shared.lr = *lr;
  if (gradient_scale != nullptr) shared.gradient_scale = *gradient_scale;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    shared.update_scale = update_scales[i];
    out[i] = shared;
  }
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

cudaError_t LaunchSpreadScalars(cudaStream_t stream, const MuonScalars& shared, const float* lr,
                                const float* gradient_scale, const double* update_scales,
                                int64_t count, MuonScalars* out) {
  if (count == 0) return cudaSuccess;
  const int64_t ctas = count < 64 * 256 ? (count + 255) / 256 : 64;
  SpreadScalarsKernel<<<static_cast<unsigned>(ctas), 256, 0, stream>>>(shared, lr, gradient_scale,
                                                                       update_scales, count, out);
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
