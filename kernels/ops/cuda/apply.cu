// Apply: p' = (1 - lr wd) p - lr update_scale U, read as wide as both sides allow, cast once at the end.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

template <bool kWhole>
__device__ __forceinline__ void DoTile(const ApplyItem& item, const TileReader& reader,
                                       const Tile& tile) {
  constexpr int kGroups = 4;
  constexpr int kStride = kThreads * kVector;
  const Extent& extent = item.extent;
  const float keep = static_cast<float>(1 - item.scalars->lr * item.scalars->weight_decay);
  const float step = static_cast<float>(-item.scalars->lr * item.scalars->update_scale);
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kGroups; ++round) {
    const int64_t first = tile.begin + round * kGroups * kStride + threadIdx.x * kVector;
    Four p[kGroups], u[kGroups];
    reader.Read<kWhole>(first, kStride, p);
    ReadPlane<kWhole>(item.update, extent, first, kStride, u);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) p[i].v[j] = fmaf(step, u[i].v[j], keep * p[i].v[j]);
      WritePlane<kWhole>(item.out, extent, first + i * kStride, p[i]);
    }
  }
}

// A call of its own, so that its registers are not the whole tiles'.
__device__ __noinline__ void DoTileSlowly(const ApplyItem& item, const Source* sources,
                                          const Tile& tile) {
  const TileReader reader(sources, item.parameter, item.extent, tile.begin);
  DoTile<false>(item, reader, tile);
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads, 4)
    ApplyKernel(const __grid_constant__ List<kBytes> list) {
  const ApplyItem& item = FindItem(list.template item_array<ApplyItem>(), list.items, blockIdx.x);
  const Tile tile(item.extent);
  const TileReader reader(list.source_array(), item.parameter, item.extent, tile.begin);
  if (reader.is_whole() && tile.full && IsWhole(item.update) && IsWhole(item.out)) {
    DoTile<true>(item, reader, tile);
  } else {
    DoTileSlowly(item, list.source_array(), tile);
  }
}

}  // namespace

template <int kBytes>
cudaError_t LaunchApply(cudaStream_t stream, const List<kBytes>& list, int tiles) {
  ApplyKernel<kBytes><<<tiles, kThreads, 0, stream>>>(list);
  return cudaGetLastError();
}
template cudaError_t LaunchApply(cudaStream_t, const List<kSmallListBytes>&, int);
template cudaError_t LaunchApply(cudaStream_t, const List<kLargeListBytes>&, int);

}  // namespace muond::elementwise
