// AdamW in one pass over many tensors:
//   p (1 - lr wd);  m' = m + (1-b1)(g - m);  v' = b2 v + (1-b2) g^2;
//   p' = p - lr/(1-b1^t) m' / (sqrt(v')/sqrt(1-b2^t) + eps),  t = *step_in + 1.
// fp32 arithmetic as torch's fused AdamW; the bias corrections in fp64, once a CTA.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

struct Rule {
  float gradient_scale, keep, rest1, beta2, rest2, step_size, root2_inverse, eps;
};

__device__ Rule RuleOf(const AdamWScalars& s, double step) {
  const double correction1 = 1 - pow(s.beta1, step);
  const double correction2 = 1 - pow(s.beta2, step);
  return {static_cast<float>(s.gradient_scale),   static_cast<float>(1 - s.lr * s.weight_decay),
          static_cast<float>(1 - s.beta1),        static_cast<float>(s.beta2),
          static_cast<float>(1 - s.beta2),        static_cast<float>(s.lr / correction1),
          static_cast<float>(rsqrt(correction2)), static_cast<float>(s.eps)};
}

__device__ void Update(const Rule& rule, Four& g, Four& p, Four& m, Four& v) {
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    const float gradient = rule.gradient_scale * g.v[j];
    m.v[j] = fmaf(rule.rest1, gradient - m.v[j], m.v[j]);
    v.v[j] = fmaf(rule.rest2 * gradient, gradient, rule.beta2 * v.v[j]);
    const float denominator = fmaf(sqrtf(v.v[j]), rule.root2_inverse, rule.eps);
    p.v[j] = fmaf(-rule.step_size, m.v[j] / denominator, rule.keep * p.v[j]);
  }
}

template <bool kWhole>
__device__ __forceinline__ void DoTile(const AdamWItem& item, const TileReader& gradient,
                                       const TileReader& parameter, const Tile& tile,
                                       const Rule& shared_rule) {
  constexpr int kGroups = 2;
  constexpr int kStride = kThreads * kVector;
  const Extent& extent = item.extent;
  auto state = [&](const float* data) { return StatePlane(data, item.state_aligned, extent); };
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kGroups; ++round) {
    const int64_t first = tile.begin + round * kGroups * kStride + threadIdx.x * kVector;
    Four g[kGroups], p[kGroups], m[kGroups], v[kGroups];
    if (item.present) gradient.Read<kWhole>(first, kStride, g);
    parameter.Read<kWhole>(first, kStride, p);
    ReadPlane<kWhole>(state(item.exp_avg_in), extent, first, kStride, m);
    ReadPlane<kWhole>(state(item.exp_avg_sq_in), extent, first, kStride, v);
    if (round == 0) __syncthreads();  // the rule; the first loads are on their way by now
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      if (item.present) Update(shared_rule, g[i], p[i], m[i], v[i]);
      const int64_t element = first + i * kStride;
      WritePlane<kWhole>(item.out, extent, element, p[i]);
      WritePlane<kWhole>(state(item.exp_avg_out), extent, element, m[i]);
      WritePlane<kWhole>(state(item.exp_avg_sq_out), extent, element, v[i]);
    }
  }
}

// A call of its own, so that its registers are not the whole tiles'.
__device__ __noinline__ void DoTileSlowly(const AdamWItem& item, const Source* sources,
                                          const Tile& tile, const Rule& shared_rule) {
  const TileReader gradient(sources, item.gradient, item.extent, tile.begin);
  const TileReader parameter(sources, item.parameter, item.extent, tile.begin);
  DoTile<false>(item, gradient, parameter, tile, shared_rule);
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads, 4)
    AdamWKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  __shared__ Rule shared_rule;
  const AdamWItem& item = FindItem(list.template item_array<AdamWItem>(), list.items, blockIdx.x);
  const Tile tile(item.extent);
  if (threadIdx.x == 0) {
    const double step = *item.step_in + (item.present ? 1 : 0);
    if (item.present) shared_rule = RuleOf(*item.scalars, step);
    // The last tile to have read the count writes it, so that it may be counted in place. The add cannot pass the read:
    // its address depends on it.
    uint32_t* const tiles_done = &scratch->tiles_done[item.slot] + (step < 0 ? 1 : 0);
    if (atomicAdd(tiles_done, 1u) + 1 == static_cast<uint32_t>(item.tiles)) {
      *tiles_done = 0;
      *item.step_out = step;
    }
  }
  const TileReader gradient(list.source_array(), item.gradient, item.extent, tile.begin);
  const TileReader parameter(list.source_array(), item.parameter, item.extent, tile.begin);
  const bool whole = (!item.present || gradient.is_whole()) && parameter.is_whole() && tile.full &&
                     item.state_aligned && IsWhole(item.out);
  if (whole) {
    DoTile<true>(item, gradient, parameter, tile, shared_rule);
  } else {
    DoTileSlowly(item, list.source_array(), tile, shared_rule);
  }
}

}  // namespace

template <int kBytes>
cudaError_t LaunchAdamW(cudaStream_t stream, const List<kBytes>& list, int tiles,
                        Scratch* scratch) {
  AdamWKernel<kBytes><<<tiles, kThreads, 0, stream>>>(list, scratch);
  return cudaGetLastError();
}
template cudaError_t LaunchAdamW(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*);
template cudaError_t LaunchAdamW(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*);

}  // namespace muond::elementwise
