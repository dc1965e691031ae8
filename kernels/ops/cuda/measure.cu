// Measure: the finite flag and, when asked for, the sum of squares with bits that no layout changes.
//
// A square of an fp32 number is exact in fp64. With 2^T above every square of a warp's 1024 elements, each is cut at bit B = T - 48:
//   high = (s + 2^(B+52) rounded towards zero) - 2^(B+52),  low = s - high,
// both exact. A lane adds at most 32 of each: high stays a multiple of 2^B below 2^(T+5), low a multiple of 2^(T-96)
// below 2^(B+5), so both sums are exact in fp64 and become integers without loss. Squares whose last bit lies below
// 2^(T-96) (elements 2^24 times smaller than the warp's largest) go to the windows one by one.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

using Windows = unsigned long long;

// windows += value * 2^exponent, exponent >= BinnedSum::kLowestExponent.
__device__ void AddToWindows(Windows* windows, uint64_t value, int exponent) {
  const int position = exponent - BinnedSum::kLowestExponent;
  const int window = position / 32, shift = position % 32;
  const uint32_t low = static_cast<uint32_t>(value), high = static_cast<uint32_t>(value >> 32);
  const uint32_t part[3] = {low << shift, __funnelshift_l(low, high, shift),
                            __funnelshift_l(high, 0, shift)};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    if (part[i] != 0) atomicAdd(&windows[window + i], Windows{part[i]});
  }
}

// The warp's sum of values below 2^58, in every lane: three sums of 20 bits each, by one instruction a piece.
__device__ uint64_t WarpSum(uint64_t value) {
  const uint64_t low = __reduce_add_sync(~0u, static_cast<uint32_t>(value) & 0xfffffu);
  const uint64_t middle = __reduce_add_sync(~0u, static_cast<uint32_t>(value >> 20) & 0xfffffu);
  const uint64_t high = __reduce_add_sync(~0u, static_cast<uint32_t>(value >> 40));
  return low + (middle << 20) + (high << 40);
}

// 2^exponent, for -1022 <= exponent <= 1023.
__device__ double PowerOfTwo(int exponent) { return __hiloint2double((exponent + 1023) << 20, 0); }

// A warp's 1024 elements into the CTA's windows.
__device__ void SumSquares(const Four (&x)[kVectorsPerThread], Windows* windows) {
  uint32_t largest = 0;
#pragma unroll
  for (int u = 0; u < kVectorsPerThread; ++u) {
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const uint32_t bits = __float_as_uint(x[u].v[j]) & 0x7fffffffu;
      largest = max(largest, bits < 0x7f800000u ? bits : 0u);
    }
  }
  largest = __reduce_max_sync(~0u, largest);
  if (largest == 0) return;
  const int top = 2 * (max(static_cast<int>(largest >> 23), 1) - 126);  // every square < 2^top
  const int cut = top - 48;
  const int last = max(top - 96, BinnedSum::kLowestExponent);
  // |x| >= 2^floor_exponent keeps its square's last bit at or above 2^(top - 96): 2 (e - 150) >= top - 96.
  const int floor_exponent = (top - 96) / 2 + 150;
  const uint32_t floor_bits = floor_exponent > 0 ? static_cast<uint32_t>(floor_exponent) << 23 : 0;
  const double magic = PowerOfTwo(cut + 52);
  double high = 0, low = 0;
#pragma unroll
  for (int u = 0; u < kVectorsPerThread; ++u) {
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const uint32_t bits = __float_as_uint(x[u].v[j]) & 0x7fffffffu;
      const double value = x[u].v[j];
      const double square = __dmul_rn(value, value);
      if (bits - floor_bits < 0x7f800000u - floor_bits) {
        const double above = __dsub_rn(__dadd_rz(square, magic), magic);
        high = __dadd_rn(high, above);
        low = __dadd_rn(low, __dsub_rn(square, above));
      } else if (bits != 0 && bits < 0x7f800000u) {
        const int exponent = max(static_cast<int>(bits >> 23), 1);
        const uint64_t mantissa = (bits & 0x7fffffu) | (bits >> 23 != 0 ? 0x800000u : 0);
        AddToWindows(windows, mantissa * mantissa, 2 * (exponent - 150));
      }
    }
  }
  const uint64_t high_sum = WarpSum(static_cast<uint64_t>(__dmul_rn(high, PowerOfTwo(-cut))));
  const uint64_t low_sum = WarpSum(static_cast<uint64_t>(__dmul_rn(low, PowerOfTwo(-last))));
  if (threadIdx.x % 32 == 0) AddToWindows(windows, high_sum, cut);
  if (threadIdx.x % 32 == 1) AddToWindows(windows, low_sum, last);
}

// `windows` are the CTA's own, in shared memory, the non-finite count behind them.
template <bool kWhole>
__device__ __forceinline__ void DoTile(const MeasureItem& item, const TileReader& reader,
                                       const Tile& tile, Windows* windows) {
  Four x[kVectorsPerThread];
  reader.Read<kWhole>(tile.begin + threadIdx.x * kVector, kThreads * kVector, x);
  uint32_t bad = 0;
#pragma unroll
  for (int u = 0; u < kVectorsPerThread; ++u) {
#pragma unroll
    for (int j = 0; j < kVector; ++j)
      bad += (__float_as_uint(x[u].v[j]) & 0x7fffffffu) >= 0x7f800000u;
  }
  bad = __reduce_add_sync(~0u, bad);
  if (threadIdx.x % 32 == 0 && bad != 0) atomicAdd(&windows[BinnedSum::kWindows], Windows{bad});
  if (item.want_norm) SumSquares(x, windows);
}

// A call of its own, so that its registers are not the whole tiles'.
__device__ __noinline__ void DoTileSlowly(const MeasureItem& item, const Source* sources,
                                          const Tile& tile, Windows* windows) {
  const TileReader reader(sources, item.source, item.extent, tile.begin);
  DoTile<false>(item, reader, tile, windows);
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads, 4)
    MeasureKernel(const __grid_constant__ List<kBytes> list, Scratch* scratch) {
  __shared__ Windows windows[kMeasureWords];
  __shared__ bool is_last;
  if (threadIdx.x < kMeasureWords) windows[threadIdx.x] = 0;
  __syncthreads();
  const MeasureItem& item =
      FindItem(list.template item_array<MeasureItem>(), list.items, blockIdx.x);
  Tile tile(item.extent);
  tile.begin *= kMeasureTiles;
#pragma unroll 1
  for (int i = 0; i < kMeasureTiles && tile.begin < item.extent.elements; ++i) {
    const TileReader reader(list.source_array(), item.source, item.extent, tile.begin);
    if (reader.is_whole()) {
      DoTile<true>(item, reader, tile, windows);
    } else {
      DoTileSlowly(item, list.source_array(), tile, windows);
    }
    tile.begin += kTileElements;
  }
  __syncthreads();
  Windows* const words = reinterpret_cast<Windows*>(scratch->measure[item.slot]);
  if (threadIdx.x < kMeasureWords && windows[threadIdx.x] != 0) {
    atomicAdd(&words[threadIdx.x], windows[threadIdx.x]);
  }
  __syncthreads();
  if (!FinishesLast(&scratch->tiles_done[item.slot], item.tiles, &is_last)) return;
  if (threadIdx.x != 0) return;
  uint64_t carry = 0;
  for (int i = 0; i < BinnedSum::kWindows; ++i) {
    const uint64_t sum = __ldcg(&words[i]) + carry;
    // The last window keeps what is left: nothing lies above it.
    const bool last_window = i + 1 == BinnedSum::kWindows;
    item.windows[i] = last_window ? sum : sum & 0xffffffffu;
    carry = sum >> 32;
    words[i] = 0;
  }
  *item.non_finite = __ldcg(&words[BinnedSum::kWindows]);
  words[BinnedSum::kWindows] = 0;
  __threadfence_system();
}

}  // namespace

template <int kBytes>
cudaError_t LaunchMeasure(cudaStream_t stream, const List<kBytes>& list, int tiles,
                          Scratch* scratch) {
  MeasureKernel<kBytes><<<tiles, kThreads, 0, stream>>>(list, scratch);
  return cudaGetLastError();
}
template cudaError_t LaunchMeasure(cudaStream_t, const List<kSmallListBytes>&, int, Scratch*);
template cudaError_t LaunchMeasure(cudaStream_t, const List<kLargeListBytes>&, int, Scratch*);

}  // namespace muond::elementwise
