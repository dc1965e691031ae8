// Direction: gather + momentum + Nesterov + cast + Frobenius norm in one pass.
//
// u[m,n] = nesterov ? g + mu (m' - g) : m',  m' = m + (1-mu)(g - m),  g = gradient_scale * (sum of replicas).
// A float16 direction is u 2^k, and the norm is max(||u||, eps) 2^k. k is a function of the exact norm and maximum: it
// brings the root mean square of u into [2^-8, 2^4) in steps of 2^12 (0 for ordinary magnitudes) and keeps the largest
// element below 2^15. The pass needs k before it knows them, so it works with a guess from 4096 elements at places that
// the shape fixes; where the guess was wrong (a few rows hold everything, say) the matrix is cast again.
// Four launches, ordered by the stream and not by fences or counters, which cost the main pass a tenth of its rate.
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/tiles.cuh"

namespace muond::elementwise {
namespace {

constexpr int kSampleThreads = 512;
constexpr int kSamplesPerThread = 8;
constexpr int kSamples = kSampleThreads * kSamplesPerThread;
constexpr int kStep = 12,
              kLowest = -8;  // root mean squares land in [2^kLowest, 2^(kLowest + kStep))

__device__ int ExponentOf(double value) {  // floor(log2), for positive normal values
  return ((__double2hiint(value) >> 20) & 0x7ff) - 1023;
}

// k without the maximum's say.
__device__ int ScaleFor(double root_mean_square) {
  if (!(root_mean_square > 1e-300) || !isfinite(root_mean_square)) return 0;
  const int above = ExponentOf(root_mean_square) - kLowest;
  const int steps = above >= 0 ? above / kStep : -((kStep - 1 - above) / kStep);
  return -kStep * steps;
}

__device__ int ScaleFor(double root_mean_square, double maximum) {
  const int exponent = ScaleFor(root_mean_square);
  if (!(maximum > 0) || !isfinite(maximum)) return exponent;
  return min(exponent, 14 - ExponentOf(maximum));
}

__device__ float Scaled(float value, int exponent) {
  // Two steps: fp32 holds 2^-126 to 2^127, and k may be as large as 149.
  const int half = exponent / 2;
  return value * __int_as_float((half + 127) << 23) * __int_as_float((exponent - half + 127) << 23);
}

using Rule = DirectionRule;

__device__ Rule RuleOf(const MuonScalars* scalars) {
  return {static_cast<float>(scalars->gradient_scale), static_cast<float>(scalars->momentum),
          static_cast<float>(1 - scalars->momentum), scalars->nesterov, scalars->eps};
}

// from + weight (to - from), rest = 1 - weight: started from the nearer end, so that weights 0 and 1 are exact.
__device__ float Lerp(float from, float to, float weight, float rest) {
  return weight < 0.5f ? fmaf(weight, to - from, from) : fmaf(-rest, to - from, to);
}
__device__ float Momentum(const Rule& rule, float g, float m) {
  return Lerp(m, g, rule.rest, rule.momentum);
}
__device__ float Nesterov(const Rule& rule, float g, float m) {
  return rule.nesterov ? Lerp(g, m, rule.momentum, rule.rest) : m;
}

template <int kBytes>
__global__ void __launch_bounds__(kSampleThreads)
    SampleKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  __shared__ double warps[kSampleThreads / 32];
  const DirectionItem& item = list.template item_array<DirectionItem>()[blockIdx.x];
  const Extent& extent = item.extent;
  const Rule rule = RuleOf(item.scalars);
  if (threadIdx.x == 0) {
    scratch->rule[item.slot] = rule;
    scratch->any_corrected = 0;
  }
  if (item.direction.dtype != DType::kFloat16 || extent.is_piece) {
    // Nothing to scale; or its sources are not all here, and every piece must guess the same.
    if (threadIdx.x == 0) scratch->exponent[item.slot] = 0;
    return;
  }
  double sum = 0;
#pragma unroll
  for (int i = 0; i < kSamplesPerThread; ++i) {
    const int64_t number = int64_t{i} * kSampleThreads + threadIdx.x;
    if (extent.elements <= kSamples && number >= extent.elements) break;
    // Evenly spread; 2^32 elements times 4096 fit 64 bits.
    const int64_t element =
        extent.elements <= kSamples ? number : extent.elements * number / kSamples;
    const float g =
        rule.scale * Gather(list.source_array(), item.gradient, extent, element, 1).v[0];
    float u = g;
    if (item.momentum_in != nullptr)
      u = Nesterov(rule, g, Momentum(rule, g, item.momentum_in[element]));
    if (isfinite(u)) sum = fma(double{u}, double{u}, sum);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < kSampleThreads / 32; ++warp) sum += warps[warp];
  const int64_t count = extent.elements < kSamples ? extent.elements : kSamples;
  scratch->exponent[item.slot] = ScaleFor(sqrt(sum / count));
}

// The tensors of a tile.
struct Tensors {
  TileReader gradient;
  TilePlane state_in, state_out, direction;
  bool has_state;
};

// fp32 where it can lose nothing that counts: conversions to fp64 are slow (a quarter of this pass's time for each element).
__device__ double SumOfSquares(const Four& u) {
  const float sum =
      fmaf(u.v[3], u.v[3], fmaf(u.v[2], u.v[2], fmaf(u.v[1], u.v[1], u.v[0] * u.v[0])));
  if (sum > 0x1p-80f && sum < 0x1p120f) return sum;
  double wide = 0;
#pragma unroll
  for (int j = 0; j < kVector; ++j) wide = fma(double{u.v[j]}, double{u.v[j]}, wide);
  return wide;
}

template <Way kWay, int kGroups>
__device__ __forceinline__ SumAndMaximum DoRound(const Tensors& tensors, const Rule& rule,
                                                 int exponent, int round, SumAndMaximum partial) {
  const bool has_state = tensors.has_state;
  Four g[kGroups], m[kGroups];
  tensors.gradient.Read<kWay>(round, g);
  if (has_state) tensors.state_in.Read<kWay>(round, m);
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    Four u;
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float gradient = rule.scale * g[i].v[j];
      u.v[j] = gradient;
      if (has_state) {
        m[i].v[j] = Momentum(rule, gradient, m[i].v[j]);
        u.v[j] = Nesterov(rule, gradient, m[i].v[j]);
      }
      partial.maximum = fmaxf(partial.maximum, fabsf(u.v[j]));
    }
    partial.sum += SumOfSquares(u);
    if (exponent != 0) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) u.v[j] = Scaled(u.v[j], exponent);
    }
    const int chunk = ChunkOf(round, kGroups) + i * kWarps;
    if (has_state) tensors.state_out.Write<kWay>(chunk, m[i]);
    tensors.direction.Write<kWay>(chunk, u);
  }
  return partial;
}

constexpr int kGroups = 4;
constexpr int kRounds = kVectorsPerThread / kGroups;

// Dense fp32 state as planes.
struct State {
  Plane in, out;
  __device__ explicit State(const DirectionItem& item)
      : in(StatePlane(item.momentum_in, item.state_aligned, item.extent)),
        out(StatePlane(item.momentum_out, item.state_aligned, item.extent)) {}
};

// The groups of round `round`, one by one. A call, and by value: what it needs of registers and local memory is its own.
__device__ __noinline__ SumAndMaximum DoSlowly(const DirectionItem& item, const Source* sources,
                                               const Scratch* scratch, int round,
                                               SumAndMaximum partial) {
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
  const State state(item);
  const Tensors tensors{.gradient = {sources, item.gradient, extent, tile, nullptr},
                        .state_in = {state.in, extent, tile},
                        .state_out = {state.out, extent, tile},
                        .direction = {item.direction, extent, tile},
                        .has_state = item.momentum_in != nullptr};
  const Rule rule = scratch->rule[item.slot];
  const int exponent = scratch->exponent[item.slot];
#pragma unroll 1
  for (int i = 0; i < kGroups; ++i)
    partial = DoRound<Way::kSlow, 1>(tensors, rule, exponent, round * kGroups + i, partial);
  return partial;
}

// kMaps: tiles may have to be found piece by piece. A kernel of its own, so that plain lists have all registers.
template <int kBytes, bool kMaps>
__global__ void __launch_bounds__(kThreads, kMaps ? 3 : 4)
    DirectionKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  const DirectionItem& item =
      FindItem(list.template item_array<DirectionItem>(), list.items, blockIdx.x);
  const Source* const sources = list.source_array();
  const Extent& extent = item.extent;
  const Tile tile(extent, blockIdx.x);
  const Rule rule = scratch->rule[item.slot];
  const int exponent = scratch->exponent[item.slot];
  const State state(item);
  const bool has_state = item.momentum_in != nullptr;
  SumAndMaximum found;
  if constexpr (kMaps) {
    __shared__ MapRow gradients[kMapReplicas], directions;
    MapSources(gradients, sources, item.gradient, extent, tile);
    MapPlane(directions, item.direction, extent, tile);
    __syncthreads();
    const Tensors tensors{.gradient = {sources, item.gradient, extent, tile, gradients},
                          .state_in = {state.in, extent, tile},
                          .state_out = {state.out, extent, tile},
                          .direction = {item.direction, extent, tile, &directions},
                          .has_state = has_state};
#pragma unroll 1
    for (int round = 0; round < kRounds; ++round) {
      // State is one size and one alignment.
      if (tensors.gradient.IsMapped<kGroups>(round) && tensors.direction.IsMapped<kGroups>(round) &&
          tensors.state_in.IsMapped<kGroups>(round)) {
        found = DoRound<Way::kMapped, kGroups>(tensors, rule, exponent, round, found);
      } else {
        found = DoSlowly(item, sources, scratch, round, found);
      }
    }
  } else {
    const Tensors tensors{.gradient = {sources, item.gradient, extent, tile},
                          .state_in = {state.in, extent, tile},
                          .state_out = {state.out, extent, tile},
                          .direction = {item.direction, extent, tile},
                          .has_state = has_state};
    if (tensors.gradient.is_whole()) {
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round)
        found = DoRound<Way::kWhole, kGroups>(tensors, rule, exponent, round, found);
    } else {
#pragma unroll 1
      for (int round = 0; round < kRounds; ++round)
        found = DoSlowly(item, sources, scratch, round, found);
    }
  }
  found = BlockReduce(found);
  if (threadIdx.x != 0) return;
  scratch->sum[item.first_sum + tile.number] = found.sum;
  scratch->maximum[item.first_sum + tile.number] = found.maximum;
}

// The norm of each matrix, and whether its guess was right. A CTA an item.
template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    NormKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  const DirectionItem& item = list.template item_array<DirectionItem>()[blockIdx.x];
  SumAndMaximum total;
  for (int i = threadIdx.x; i < item.tiles; i += kThreads) {
    total.sum += scratch->sum[item.first_sum + i];
    total.maximum = fmaxf(total.maximum, scratch->maximum[item.first_sum + i]);
  }
  total = BlockReduce(total);
  if (threadIdx.x != 0) return;
  const int exponent = scratch->exponent[item.slot];
  int right = exponent;
  if (item.direction.dtype == DType::kFloat16) {
    right = ScaleFor(sqrt(total.sum / item.extent.elements), total.maximum);
    scratch->corrected[item.slot] = right == exponent ? kNoCorrection : right;
    if (right != exponent) scratch->any_corrected = 1;
  }
  // What Newton-Schulz divides by: never zero, and NaN where an element is.
  double norm = sqrt(total.sum);
  const double eps = scratch->rule[item.slot].eps;
  norm = norm < eps ? eps : norm;
  *item.norm = norm == 0 ? 1 : ldexp(norm, right);
}

// Casts again what the sample misjudged, from the momentum that the main pass has written.
template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    CorrectKernel(const __grid_constant__ List<kBytes> list, int tiles, Scratch* scratch) {
  if (scratch->any_corrected == 0) return;
  for (int i = 0; i < list.items; ++i) {
    const DirectionItem& item = list.template item_array<DirectionItem>()[i];
    const int exponent =
        item.direction.dtype == DType::kFloat16 ? scratch->corrected[item.slot] : kNoCorrection;
    if (exponent == kNoCorrection) continue;
    const Extent& extent = item.extent;
    const Rule rule = scratch->rule[item.slot];
    const int64_t begin = int64_t{extent.first_tile} * kTileElements;
    const int next_launch_tile =
        i + 1 < list.items ? list.template item_array<DirectionItem>()[i + 1].extent.launch_tile
                           : tiles;
    const int64_t end = min(extent.elements,
                            begin + int64_t{next_launch_tile - extent.launch_tile} * kTileElements);
    const int64_t step = int64_t{gridDim.x} * kThreads * kVector;
    for (int64_t element = begin + (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kVector;
         element < end; element += step) {
      const int count = static_cast<int>(min(int64_t{kVector}, extent.elements - element));
      Four u = Gather(list.source_array(), item.gradient, extent, element, count);
      for (int j = 0; j < count; ++j) {
        const float g = rule.scale * u.v[j];
        u.v[j] = Scaled(
            item.momentum_in != nullptr ? Nesterov(rule, g, item.momentum_out[element + j]) : g,
            exponent);
      }
      WritePlaneSlowly(item.direction, extent, element, u);
    }
  }
}

}  // namespace

template <int kBytes>
cudaError_t LaunchDirection(cudaStream_t stream, const List<kBytes>& list, int tiles,
                            Scratch* scratch, DirectionPhase phase, int multiprocessors) {
  switch (phase) {
    case DirectionPhase::kSample:
      SampleKernel<kBytes><<<list.items, kSampleThreads, 0, stream>>>(list, scratch);
      break;
    case DirectionPhase::kMain:
      if (list.plain) {
        DirectionKernel<kBytes, false><<<tiles, kThreads, 0, stream>>>(list, scratch);
      } else {
        DirectionKernel<kBytes, true><<<tiles, kThreads, 0, stream>>>(list, scratch);
      }
      break;
    case DirectionPhase::kNorm:
      NormKernel<kBytes><<<list.items, kThreads, 0, stream>>>(list, scratch);
      break;
    case DirectionPhase::kCorrect:
      CorrectKernel<kBytes>
          <<<min(tiles, 4 * multiprocessors), kThreads, 0, stream>>>(list, tiles, scratch);
      break;
  }
  return cudaGetLastError();
}
template cudaError_t LaunchDirection(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*,
                                     DirectionPhase, int);
template cudaError_t LaunchDirection(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*,
                                     DirectionPhase, int);

}  // namespace muond::elementwise
