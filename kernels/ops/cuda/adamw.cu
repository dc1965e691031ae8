// AdamW in one pass over many tensors:
//   p (1 - lr wd);  m' = m + (1-b1)(g - m);  v' = b2 v + (1-b2) g^2;
//   p' = p - lr/(1-b1^t) m' / (sqrt(v')/sqrt(1-b2^t) + eps),  t = *step_in + 1.
// fp32 arithmetic as torch's fused AdamW; the bias corrections in fp64, once a CTA.
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/tiles.cuh"

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

// The tensors of a tile.
struct Tensors {
  TileReader gradient, parameter;
  TilePlane out, exp_avg_in, exp_avg_sq_in, exp_avg_out, exp_avg_sq_out;
};

// Dense fp32 state as planes.
struct State {
  Plane exp_avg_in, exp_avg_sq_in, exp_avg_out, exp_avg_sq_out;
  __device__ explicit State(const AdamWItem& item)
      : exp_avg_in(StatePlane(item.exp_avg_in, item.state_aligned, item.extent)),
        exp_avg_sq_in(StatePlane(item.exp_avg_sq_in, item.state_aligned, item.extent)),
        exp_avg_out(StatePlane(item.exp_avg_out, item.state_aligned, item.extent)),
        exp_avg_sq_out(StatePlane(item.exp_avg_sq_out, item.state_aligned, item.extent)) {}
};

template <Way kWay, int kGroups>
__device__ __forceinline__ void DoRound(bool present, const Tensors& tensors,
                                        const Rule& shared_rule, int round) {
  Four g[kGroups], p[kGroups], m[kGroups], v[kGroups];
  if (present) tensors.gradient.Read<kWay>(round, g);
  tensors.parameter.Read<kWay>(round, p);
  tensors.exp_avg_in.Read<kWay>(round, m);
  tensors.exp_avg_sq_in.Read<kWay>(round, v);
  // The rule; the first loads are on their way by now. Tiles that are not whole have waited for it with their maps.
  if (kWay == Way::kWhole && round == 0) __syncthreads();
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    if (present) Update(shared_rule, g[i], p[i], m[i], v[i]);
    const int chunk = ChunkOf(round, kGroups) + i * kWarps;
    tensors.out.Write<kWay>(chunk, p[i]);
    tensors.exp_avg_out.Write<kWay>(chunk, m[i]);
    tensors.exp_avg_sq_out.Write<kWay>(chunk, v[i]);
  }
}

constexpr int kGroups = 2;
constexpr int kRounds = kVectorsPerThread / kGroups;

// The groups of round `round`, one by one. A call, and by value: what it needs of registers and local memory is its own.
__device__ __noinline__ void DoSlowly(const AdamWItem& item, const Source* sources,
                                      const Rule& shared_rule, int round) {
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
  const State state(item);
  const Tensors tensors{.gradient = {sources, item.gradient, extent, tile},
                        .parameter = {sources, item.parameter, extent, tile},
                        .out = {item.out, extent, tile},
                        .exp_avg_in = {state.exp_avg_in, extent, tile},
                        .exp_avg_sq_in = {state.exp_avg_sq_in, extent, tile},
                        .exp_avg_out = {state.exp_avg_out, extent, tile},
                        .exp_avg_sq_out = {state.exp_avg_sq_out, extent, tile}};
#pragma unroll 1
  for (int i = 0; i < kGroups; ++i)
    DoRound<Way::kSlow, 1>(item.present, tensors, shared_rule, round * kGroups + i);
}

// kMaps: tiles may have to be found piece by piece. A kernel of its own, so that plain lists have all registers.
template <int kBytes, bool kMaps>
__global__ void __launch_bounds__(kThreads, kMaps ? 3 : 4)
    AdamWKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  __shared__ Rule shared_rule;
  const AdamWItem& item = FindItem(list.template item_array<AdamWItem>(), list.items, blockIdx.x);
  const Source* const sources = list.source_array();
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
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
  const State state(item);
  if constexpr (kMaps) {
    __shared__ MapRow gradients[kMapReplicas], parameters[kMapReplicas], outs;
    if (item.present) MapSources(gradients, sources, item.gradient, extent, tile);
    MapSources(parameters, sources, item.parameter, extent, tile);
    MapPlane(outs, item.out, extent, tile);
    __syncthreads();  // the maps and the rule
    const Tensors tensors{.gradient = {sources, item.gradient, extent, tile, gradients},
                          .parameter = {sources, item.parameter, extent, tile, parameters},
                          .out = {item.out, extent, tile, &outs},
                          .exp_avg_in = {state.exp_avg_in, extent, tile},
                          .exp_avg_sq_in = {state.exp_avg_sq_in, extent, tile},
                          .exp_avg_out = {state.exp_avg_out, extent, tile},
                          .exp_avg_sq_out = {state.exp_avg_sq_out, extent, tile}};
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      // State is one size and one alignment.
      if ((!item.present || tensors.gradient.IsMapped<kGroups>(round)) &&
          tensors.parameter.IsMapped<kGroups>(round) && tensors.out.IsMapped<kGroups>(round) &&
          tensors.exp_avg_in.IsMapped<kGroups>(round)) {
        DoRound<Way::kMapped, kGroups>(item.present, tensors, shared_rule, round);
      } else {
        DoSlowly(item, sources, shared_rule, round);
      }
    }
  } else {
    const Tensors tensors{.gradient = {sources, item.gradient, extent, tile},
                          .parameter = {sources, item.parameter, extent, tile},
                          .out = {item.out, extent, tile},
                          .exp_avg_in = {state.exp_avg_in, extent, tile},
                          .exp_avg_sq_in = {state.exp_avg_sq_in, extent, tile},
                          .exp_avg_out = {state.exp_avg_out, extent, tile},
                          .exp_avg_sq_out = {state.exp_avg_sq_out, extent, tile}};
    if ((!item.present || tensors.gradient.is_whole()) && tensors.parameter.is_whole()) {
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round)
        DoRound<Way::kWhole, kGroups>(item.present, tensors, shared_rule, round);
    } else {
      __syncthreads();  // the rule
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round) DoSlowly(item, sources, shared_rule, round);
    }
  }
}

}  // namespace

template <int kBytes>
cudaError_t LaunchAdamW(cudaStream_t stream, const List<kBytes>& list, int tiles,
                        Scratch* scratch) {
  if (list.plain) {
    AdamWKernel<kBytes, false><<<tiles, kThreads, 0, stream>>>(list, scratch);
  } else {
    AdamWKernel<kBytes, true><<<tiles, kThreads, 0, stream>>>(list, scratch);
  }
  return cudaGetLastError();
}
template cudaError_t LaunchAdamW(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*);
template cudaError_t LaunchAdamW(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*);

}  // namespace muond::elementwise
