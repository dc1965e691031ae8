// Apply: p' = (1 - lr wd) p - lr update_scale U, read as wide as both sides allow, cast once at the end.
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/tiles.cuh"

namespace muond::elementwise {
namespace {

struct Factors {
  float keep, step;
  __device__ explicit Factors(const MuonScalars& s)
      : keep(static_cast<float>(1 - s.lr * s.weight_decay)),
        step(static_cast<float>(-s.lr * s.update_scale)) {}
};

template <Way kWay, int kGroups>
__device__ __forceinline__ void DoRound(const Factors& factors, const TileReader& parameter,
                                        const TilePlane& update, const TilePlane& out, int round) {
  Four p[kGroups], u[kGroups];
  parameter.Read<kWay>(round, p);
  update.Read<kWay>(round, u);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      p[i].v[j] = fmaf(factors.step, u[i].v[j], factors.keep * p[i].v[j]);
    out.Write<kWay>(ChunkOf(round, kGroups) + i * kWarps, p[i]);
  }
}

constexpr int kGroups = 4;
constexpr int kRounds = kVectorsPerThread / kGroups;

// The groups of round `round`, one by one. A call, and by value: what it needs of registers and local memory is its own.
__device__ __noinline__ void DoSlowly(const ApplyItem& item, const Source* sources, int round) {
  const Tile tile(item.extent, blockIdx.x);
  const TileReader parameter(sources, item.parameter, item.extent, tile);
  const TilePlane update(item.update, item.extent, tile), out(item.out, item.extent, tile);
  const Factors factors(*item.scalars);
#pragma unroll 1
  for (int i = 0; i < kGroups; ++i)
    DoRound<Way::kSlow, 1>(factors, parameter, update, out, round * kGroups + i);
}

// kMaps: tiles may have to be found piece by piece. A kernel of its own, so that plain lists have all registers.
template <int kBytes, bool kMaps>
__global__ void __launch_bounds__(kThreads, kMaps ? 3 : 4)
    ApplyKernel(const __grid_constant__ List<kBytes> list) {
  const ApplyItem& item = FindItem(list.template item_array<ApplyItem>(), list.items, blockIdx.x);
  const Source* const sources = list.source_array();
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
  const Factors factors(*item.scalars);
  if constexpr (kMaps) {
    __shared__ MapRow parameters[kMapReplicas], updates, outs;
    MapSources(parameters, sources, item.parameter, extent, tile);
    MapPlane(updates, item.update, extent, tile);
    MapPlane(outs, item.out, extent, tile);
    __syncthreads();
    const TileReader parameter(sources, item.parameter, extent, tile, parameters);
    const TilePlane update(item.update, extent, tile, &updates), out(item.out, extent, tile, &outs);
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      if (parameter.IsMapped<kGroups>(round) && update.IsMapped<kGroups>(round) &&
          out.IsMapped<kGroups>(round)) {
        DoRound<Way::kMapped, kGroups>(factors, parameter, update, out, round);
      } else {
        DoSlowly(item, sources, round);
      }
    }
  } else {
    const TileReader parameter(sources, item.parameter, extent, tile);
    if (parameter.is_whole()) {
      const TilePlane update(item.update, extent, tile), out(item.out, extent, tile);
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round)
        DoRound<Way::kWhole, kGroups>(factors, parameter, update, out, round);
    } else {
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round) DoSlowly(item, sources, round);
    }
  }
}

}  // namespace

template <int kBytes>
cudaError_t LaunchApply(cudaStream_t stream, const List<kBytes>& list, int tiles) {
  if (list.plain) {
    ApplyKernel<kBytes, false><<<tiles, kThreads, 0, stream>>>(list);
  } else {
    ApplyKernel<kBytes, true><<<tiles, kThreads, 0, stream>>>(list);
  }
  return cudaGetLastError();
}
template cudaError_t LaunchApply(cudaStream_t, const List<kSmallListBytes>&, int);
template cudaError_t LaunchApply(cudaStream_t, const List<kLargeListBytes>&, int);

}  // namespace muond::elementwise
