// Direction: gather + momentum + Nesterov + cast + Frobenius norm in one pass.
//
// u[m,n] = nesterov ? g + mu (m' - g) : m',  m' = m + (1-mu)(g - m),  g = gradient_scale * (sum of replicas).
// A float16 direction is u 2^k, and the norm is max(||u||, eps) 2^k. k is a function of the exact norm and maximum: it
// brings the root mean square of u into [2^-8, 2^4) in steps of 2^12 (0 for ordinary magnitudes) and keeps the largest
// element below 2^15. The pass needs k before it knows them, so it works with a guess from 4096 elements at places that
// the shape fixes; where the guess was wrong (a few rows hold everything, say) the matrix is cast again.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

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
  if (threadIdx.x == 0) scratch->rule[item.slot] = rule;
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

struct Partial {
  double sum = 0;
  float maximum = 0;
};

// kWhole: everything is dense, aligned and full. Else every access finds its own way.
template <bool kWhole>
__device__ __forceinline__ Partial DoTile(const DirectionItem& item, const TileReader& reader,
                                          const Tile& tile, const Rule& rule, int exponent) {
  constexpr int kGroups = 4;
  constexpr int kStride = kThreads * kVector;
  const Extent& extent = item.extent;
  const Plane state_in = StatePlane(item.momentum_in, item.state_aligned, extent);
  const Plane state_out = StatePlane(item.momentum_out, item.state_aligned, extent);
  const bool has_state = item.momentum_in != nullptr;
  Partial partial;
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kGroups; ++round) {
    const int64_t first = tile.begin + round * kGroups * kStride + threadIdx.x * kVector;
    Four g[kGroups], m[kGroups];
    reader.Read<kWhole>(first, kStride, g);
    if (has_state) ReadPlane<kWhole>(state_in, extent, first, kStride, m);
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
        partial.sum = fma(double{u.v[j]}, double{u.v[j]}, partial.sum);
        partial.maximum = fmaxf(partial.maximum, fabsf(u.v[j]));
        if (exponent != 0) u.v[j] = Scaled(u.v[j], exponent);
      }
      const int64_t element = first + i * kStride;
      if (has_state) WritePlane<kWhole>(state_out, extent, element, m[i]);
      WritePlane<kWhole>(item.direction, extent, element, u);
    }
  }
  return partial;
}

// A call of its own, so that its registers are not the whole tiles'.
__device__ __noinline__ Partial DoTileSlowly(const DirectionItem& item, const Source* sources,
                                             const Tile& tile, const Rule& rule, int exponent) {
  const TileReader reader(sources, item.gradient, item.extent, tile.begin);
  return DoTile<false>(item, reader, tile, rule, exponent);
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads, 4)
    DirectionKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  __shared__ double shared[kThreads / 32];
  __shared__ bool is_last;
  const DirectionItem& item =
      FindItem(list.template item_array<DirectionItem>(), list.items, blockIdx.x);
  const Tile tile(item.extent);
  const bool half = item.direction.dtype == DType::kFloat16;
  const Rule rule = scratch->rule[item.slot];
  const int exponent = scratch->exponent[item.slot];
  const TileReader reader(list.source_array(), item.gradient, item.extent, tile.begin);
  const bool whole =
      reader.is_whole() && tile.full && item.state_aligned && IsWhole(item.direction);
  const Partial partial = whole ? DoTile<true>(item, reader, tile, rule, exponent)
                                : DoTileSlowly(item, list.source_array(), tile, rule, exponent);
  double sum = partial.sum;
  float maximum = partial.maximum;
  sum = BlockSum(sum, shared);
  maximum = __uint_as_float(
      BlockMaximumBits(__float_as_uint(maximum), reinterpret_cast<uint32_t*>(shared)));
  if (threadIdx.x == 0) {
    scratch->sum[item.first_sum + tile.number] = sum;
    scratch->maximum[item.first_sum + tile.number] = maximum;
  }
  if (!FinishesLast(&scratch->tiles_done[item.slot], item.tiles, &is_last)) return;

  sum = 0;
  maximum = 0;
  for (int i = threadIdx.x; i < item.tiles; i += kThreads) {
    sum += __ldcg(&scratch->sum[item.first_sum + i]);
    maximum = fmaxf(maximum, __ldcg(&scratch->maximum[item.first_sum + i]));
  }
  sum = BlockSum(sum, shared);
  maximum = __uint_as_float(
      BlockMaximumBits(__float_as_uint(maximum), reinterpret_cast<uint32_t*>(shared)));
  if (threadIdx.x != 0) return;
  int right = exponent;
  if (half) {
    right = ScaleFor(sqrt(sum / item.extent.elements), maximum);
    scratch->corrected[item.slot] = right == exponent ? kNoCorrection : right;
  }
  // What Newton-Schulz divides by: never zero, and NaN where an element is.
  double norm = sqrt(sum);
  norm = norm < rule.eps ? rule.eps : norm;
  *item.norm = norm == 0 ? 1 : ldexp(norm, right);
}

// Casts again what the sample misjudged, from the momentum that the main pass has written.
template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    CorrectKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
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
                           : extent.launch_tile + item.tiles;
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
      WritePlane<false>(item.direction, extent, element, u);
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
      DirectionKernel<kBytes><<<tiles, kThreads, 0, stream>>>(list, scratch);
      break;
    case DirectionPhase::kCorrect:
      CorrectKernel<kBytes>
          <<<min(tiles, 4 * multiprocessors), kThreads, 0, stream>>>(list, scratch);
      break;
  }
  return cudaGetLastError();
}
template cudaError_t LaunchDirection(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*,
                                     DirectionPhase, int);
template cudaError_t LaunchDirection(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*,
                                     DirectionPhase, int);

}  // namespace muond::elementwise
