// Measure: the finite flag and, when asked for, the sum of squares with bits that no layout changes.
//
// A square of an fp32 number is exact in fp64. Let 2^T lie above every square that a warp adds in one go. A lane's sum starts at
// 2^(T+6), where fp64 counts in units of 2^(T-46), and takes each square x x by
//   sum' = fma(x, x, sum), rounded towards zero;   rest += fma(x, x, sum - sum').
// What the sum took is a multiple of its unit and the rest is exact; at most 32 squares a lane leave both below half their
// starting power, so their mantissas are integers: no conversion, and integers add in any order. The rest counts in units of 2^(T-92):
// elements 2^22 below the largest, and batches with NaN or Inf, go a way of their own.
//
// CTAs stay and take equal runs of tiles. A warp keeps its windows in registers, one a lane, and adds them to the tensor's
// when the run leaves it; a second launch carries and writes them out.
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/tiles.cuh"

namespace muond::elementwise {
namespace {

constexpr int kLoads = 4;  // 16-byte loads of a lane in one go: 16 fp32 or 32 16-bit elements
constexpr int kBatchVectors = kLoads * 32;  // of a warp
constexpr int kCtasPerMultiprocessor = 3;
constexpr uint32_t kInfinity = 0x7f800000u;

// Lane i's share of the warp's sums: window i; behind the windows, the number of elements that are not finite.
using Share = uint64_t;
static_assert(kMeasureWords <= 32);

// The warp's windows += value * 2^exponent, exponent >= BinnedSum::kLowestExponent; the same value in every lane.
__device__ Share AddToWindows(Share share, uint64_t value, int exponent) {
  const int position = exponent - BinnedSum::kLowestExponent;
  const int part = static_cast<int>(threadIdx.x % 32) - position / 32, shift = position % 32;
  const uint32_t low = static_cast<uint32_t>(value), high = static_cast<uint32_t>(value >> 32);
  if (part == 0) share += low << shift;
  if (part == 1) share += __funnelshift_l(low, high, shift);
  if (part == 2) share += __funnelshift_l(high, 0, shift);
  return share;
}

// The warp's sum of values below 2^52, in every lane.
__device__ uint64_t WarpSum(uint64_t value) {
  constexpr uint32_t kMask = (1u << 26) - 1;
  const uint64_t low = __reduce_add_sync(~0u, static_cast<uint32_t>(value) & kMask);
  const uint64_t high = __reduce_add_sync(~0u, static_cast<uint32_t>(value >> 26));
  return low + (high << 26);
}

// 2^exponent, for -1022 <= exponent <= 1023.
__device__ double PowerOfTwo(int exponent) { return __hiloint2double((exponent + 1023) << 20, 0); }
__device__ uint64_t Mantissa(double value) {
  return static_cast<uint64_t>(__double_as_longlong(value)) & ((uint64_t{1} << 52) - 1);
}

// fp32 bits of a normal number's magnitude to fp64: another bias, and three bits further down. The conversion instruction
// takes eight times as long as an fp64 addition.
__device__ double Wide(uint32_t magnitude) {
  constexpr uint32_t kBias = (1023 - 127) << 20;
  return __hiloint2double(static_cast<int>((magnitude >> 3) + kBias),
                          static_cast<int>(magnitude << 29));
}

// A batch's elements, from the bits as they lie in memory.
template <DType kType>
struct Batch {
  static constexpr int kCount = kLoads * (kType == DType::kFloat32 ? 4 : 8);
  const uint4 (&raw)[kLoads];

  __device__ float operator[](int i) const {
    if constexpr (kType == DType::kFloat32) {
      const uint4& v = raw[i / 4];
      const int j = i % 4;
      return __uint_as_float(j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w);
    } else {
      const uint4& v = raw[i / 8];
      const int j = i / 2 % 4;
      const uint32_t pair = j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w;
      if constexpr (kType == DType::kBFloat16) {
        return __uint_as_float(i % 2 == 0 ? pair << 16 : pair & 0xffff0000u);
      } else {
        const __half2 halves = *reinterpret_cast<const __half2*>(&pair);
        return __half2float(i % 2 == 0 ? __low2half(halves) : __high2half(halves));
      }
    }
  }
};

__device__ float LargerOrNan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}
__device__ uint32_t Magnitude(float value) { return __float_as_uint(value) & 0x7fffffffu; }

// The exponents of one go, from the bits of the largest magnitude.
struct Scale {
  int top;         // every square < 2^top
  int rest_unit;   // of the rest
  uint32_t floor;  // bits of the least magnitude that fits; zero fits, too. Normal
  __device__ explicit Scale(uint32_t largest) {
    const int exponent = max(static_cast<int>(largest >> 23), 1);
    top = 2 * (exponent - 126);
    rest_unit = max(top - 92, -298);
    floor = static_cast<uint32_t>(max(exponent - 22, 1)) << 23;
  }
};

enum class Kind {
  kNormal,     // every magnitude at or above the floor
  kWithZeros,  // or zero
  kAny,        // what is not finite or below the floor is left out
};
template <Kind kKind, DType kType>
__device__ __forceinline__ Share AddSquares(const Batch<kType>& x, const Scale& scale,
                                            Share share) {
  const double start = PowerOfTwo(scale.top + 6);
  double sum = start, rest = PowerOfTwo(scale.rest_unit + 52);
#pragma unroll
  for (int i = 0; i < x.kCount; ++i) {
    double wide;
    if constexpr (kKind == Kind::kNormal) {
      wide = Wide(Magnitude(x[i]));
    } else {
      const bool out =
          kKind == Kind::kAny && Magnitude(x[i]) - scale.floor >= kInfinity - scale.floor;
      wide = out ? 0.0f : x[i];
    }
    const double next = __fma_rz(wide, wide, sum);
    rest = __dadd_rz(rest, __fma_rn(wide, wide, __dsub_rn(sum, next)));
    sum = next;
  }
  share = AddToWindows(share, WarpSum(Mantissa(sum)), scale.top - 46);
  return AddToWindows(share, WarpSum(Mantissa(rest)), scale.rest_unit);
}

// A batch with elements that are not finite or lie too far below the largest: those one by one.
template <DType kType>
__device__ __noinline__ Share AddRareBatch(uint4 a, uint4 b, uint4 c, uint4 d, bool want_norm,
                                           Share share) {
  const uint4 raw[kLoads] = {a, b, c, d};
  const Batch<kType> x{raw};
  uint32_t largest = 0, bad = 0;
#pragma unroll
  for (int i = 0; i < x.kCount; ++i) {
    const uint32_t bits = Magnitude(x[i]);
    bad += bits >= kInfinity;
    largest = max(largest, bits < kInfinity ? bits : 0u);
  }
  bad = __reduce_add_sync(~0u, bad);
  if (threadIdx.x % 32 == BinnedSum::kWindows) share += bad;
  largest = __reduce_max_sync(~0u, largest);
  if (!want_norm || largest == 0) return share;
  const Scale scale(largest);
#pragma unroll 1
  for (int i = 0; i < x.kCount; ++i) {
    float value = 0;
#pragma unroll
    for (int j = 0; j < x.kCount; ++j) value = j == i ? x[j] : value;
    const uint32_t bits = Magnitude(value);
    uint32_t lanes = __ballot_sync(~0u, bits != 0 && bits < scale.floor);
    for (; lanes != 0; lanes &= lanes - 1) {
      const uint32_t one = __shfl_sync(~0u, bits, __ffs(lanes) - 1);
      const int exponent = max(static_cast<int>(one >> 23), 1);
      const uint64_t mantissa = (one & 0x7fffffu) | (one >> 23 != 0 ? 0x800000u : 0u);
      share = AddToWindows(share, mantissa * mantissa, 2 * (exponent - 150));
    }
  }
  return AddSquares<Kind::kAny>(x, scale, share);
}

template <DType kType>
__device__ __noinline__ Share AddBatchWithZeros(uint4 a, uint4 b, uint4 c, uint4 d, Share share) {
  const uint4 raw[kLoads] = {a, b, c, d};
  const Batch<kType> x{raw};
  uint32_t largest = 0, least_but_zero = ~0u;  // less one: zero is the most
#pragma unroll
  for (int i = 0; i < x.kCount; ++i) {
    largest = max(largest, Magnitude(x[i]));
    least_but_zero = min(least_but_zero, Magnitude(x[i]) - 1);
  }
  const Scale scale(__reduce_max_sync(~0u, largest));
  if (__any_sync(~0u, least_but_zero < scale.floor - 1))
    return AddRareBatch<kType>(a, b, c, d, true, share);
  return AddSquares<Kind::kWithZeros>(x, scale, share);
}

// The largest magnitude, or NaN where there is one, and the least.
struct Extremes {
  float most = 0, least = INFINITY;
};
template <DType kType>
__device__ __forceinline__ Extremes ExtremesOf(const uint4 (&raw)[kLoads]) {
  Extremes found;
  if constexpr (kType == DType::kBFloat16) {
    __nv_bfloat162 most = __floats2bfloat162_rn(0, 0), least = __float2bfloat162_rn(INFINITY);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const uint32_t pairs[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t bits = pairs[j] & 0x7fff7fffu;
        const __nv_bfloat162 pair = *reinterpret_cast<const __nv_bfloat162*>(&bits);
        most = __hmax2_nan(most, pair);
        least = __hmin2(least, pair);
      }
    }
    found.most = LargerOrNan(__low2float(most), __high2float(most));
    found.least = fminf(__low2float(least), __high2float(least));
  } else {
    const Batch<kType> x{raw};
#pragma unroll
    for (int i = 0; i < x.kCount; ++i) {
      found.most = LargerOrNan(found.most, fabsf(x[i]));
      found.least = fminf(found.least, fabsf(x[i]));
    }
  }
  return found;
}

template <DType kType>
__device__ __forceinline__ Share AddBatch(const uint4 (&raw)[kLoads], bool want_norm, Share share) {
  const Extremes found = ExtremesOf<kType>(raw);
  // The bits of non-negative numbers order as they do, NaN last.
  const uint32_t largest = __reduce_max_sync(~0u, __float_as_uint(found.most));
  if (largest == 0) return share;
  if (largest >= kInfinity)
    return AddRareBatch<kType>(raw[0], raw[1], raw[2], raw[3], want_norm, share);
  if (!want_norm) return share;
  const Scale scale(largest);
  if (__any_sync(~0u, __float_as_uint(found.least) < scale.floor))
    return AddBatchWithZeros<kType>(raw[0], raw[1], raw[2], raw[3], share);
  return AddSquares<Kind::kNormal>(Batch<kType>{raw}, scale, share);
}

// A dense run, a multiple of a tile long. The next batch is on its way while this one is added.
template <DType kType>
__device__ __noinline__ Share AddRun(const char* data, int64_t elements, bool want_norm,
                                     Share share) {
  constexpr int kBatchElements = kBatchVectors * (kType == DType::kFloat32 ? 4 : 8);
  static_assert(kTileElements % (kBatchElements * kWarps) == 0);
  const int batches = static_cast<int>(elements / (kBatchElements * kWarps));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint4* from = reinterpret_cast<const uint4*>(data) + warp * kBatchVectors + lane;
  uint4 next[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) next[i] = __ldcs(from + i * 32);
#pragma unroll 1
  for (int batch = 1; batch <= batches; ++batch) {
    uint4 raw[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) raw[i] = next[i];
    from += kWarps * kBatchVectors;
    if (batch < batches) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) next[i] = __ldcs(from + i * 32);
    }
    share = AddBatch<kType>(raw, want_norm, share);
  }
  return share;
}

__device__ __noinline__ Share AddMappedTile(const MeasureItem& item, const Source* sources,
                                            int launch_tile, Share share) {
  __shared__ MapRow map[kMapReplicas];
  const Tile tile(item.extent, launch_tile);
  __syncthreads();  // the tile before is done with the map
  MapSources(map, sources, item.source, item.extent, tile);
  __syncthreads();
  const TileReader reader(sources, item.source, item.extent, tile, map);
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kLoads; ++round) {
    Four x[kLoads];
    if (reader.IsMapped<kLoads>(round)) {
      reader.Read<Way::kMapped>(round, x);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        Four one[1];
        reader.Read<Way::kSlow>(round * kLoads + i, one);
        x[i] = one[0];
      }
    }
    uint4 raw[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) raw[i] = AsBits(x[i]);
    share = AddBatch<DType::kFloat32>(raw, item.want_norm, share);
  }
  return share;
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads, kCtasPerMultiprocessor)
    MeasureKernel(const __grid_constant__ List<kBytes> list, int tiles, Scratch* scratch) {
  const MeasureItem* const items = list.template item_array<MeasureItem>();
  int at = static_cast<int>(int64_t{blockIdx.x} * tiles / gridDim.x);
  const int end = static_cast<int>((int64_t{blockIdx.x} + 1) * tiles / gridDim.x);
  const MeasureItem* item = &FindItem(items, list.items, at);
  while (at < end) {
    const int stop = min(end, item + 1 < items + list.items ? item[1].extent.launch_tile : tiles);
    Share share = 0;
    while (at < stop) {
      const Tile tile(item->extent, at);
      const TileReader reader(list.source_array(), item->source, item->extent, tile);
      if (!reader.is_whole()) {
        share = AddMappedTile(*item, list.source_array(), at, share);
        ++at;
        continue;
      }
      const int64_t run_end =
          min(reader.whole_end(), tile.begin + int64_t{stop - at} * kTileElements);
      const int run = static_cast<int>((run_end - tile.begin) / kTileElements);
      const int64_t elements = int64_t{run} * kTileElements;
      switch (reader.dtype()) {
        case DType::kFloat32:
          share = AddRun<DType::kFloat32>(reader.whole(), elements, item->want_norm, share);
          break;
        case DType::kBFloat16:
          share = AddRun<DType::kBFloat16>(reader.whole(), elements, item->want_norm, share);
          break;
        case DType::kFloat16:
          share = AddRun<DType::kFloat16>(reader.whole(), elements, item->want_norm, share);
          break;
      }
      at += run;
    }
    if (share != 0) {
      atomicAdd(
          reinterpret_cast<unsigned long long*>(&scratch->measure[item->slot][threadIdx.x % 32]),
          static_cast<unsigned long long>(share));
    }
    ++item;
  }
}

template <int kBytes>
__global__ void MeasureResultKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  const MeasureItem& item = list.template item_array<MeasureItem>()[blockIdx.x];
  if (item.extent.first_tile != 0) return;  // a piece; the tensor's first one writes
  uint64_t* const words = scratch->measure[item.slot];
  const int lane = threadIdx.x;
  uint64_t share = lane < kMeasureWords ? words[lane] : 0, mine = share, carry = 0;
  for (int i = 0; i < BinnedSum::kWindows; ++i) {
    const uint64_t sum = __shfl_sync(~0u, share, i) + carry;
    // The last window keeps what is left: nothing lies above it.
    if (lane == i) mine = i + 1 == BinnedSum::kWindows ? sum : sum & 0xffffffffu;
    carry = sum >> 32;
  }
  if (lane < BinnedSum::kWindows) item.windows[lane] = mine;
  if (lane == BinnedSum::kWindows) *item.non_finite = mine;
  if (lane < kMeasureWords) words[lane] = 0;
}

}  // namespace

template <int kBytes>
cudaError_t LaunchMeasure(cudaStream_t stream, const List<kBytes>& list, int tiles,
                          Scratch* scratch, MeasurePhase phase, int multiprocessors) {
  if (phase == MeasurePhase::kMain) {
    const int ctas = min(tiles, kCtasPerMultiprocessor * multiprocessors);
    MeasureKernel<kBytes><<<ctas, kThreads, 0, stream>>>(list, tiles, scratch);
  } else {
    MeasureResultKernel<kBytes><<<list.items, 32, 0, stream>>>(list, scratch);
  }
  return cudaGetLastError();
}
template cudaError_t LaunchMeasure(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*,
                                   MeasurePhase, int);
template cudaError_t LaunchMeasure(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*,
                                   MeasurePhase, int);

}  // namespace muond::elementwise
