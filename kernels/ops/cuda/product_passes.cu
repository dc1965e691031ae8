// What the library products leave to do: symmetric results mirrored bit for bit, diagonals rounded once, scale factors
// that live on the device.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

// 32 x 32 squares through shared memory; only squares on and below the diagonal have a CTA.
constexpr int kSquare = 32;
constexpr int kMaxMirrors = 512;
struct MirrorList {
  int32_t count;
  MirrorItem items[kMaxMirrors];
};

template <typename Element>
__device__ void Mirror(const MirrorItem& item, int64_t block_row, int64_t block_col,
                       uint32_t (*square)[kSquare + 1]) {
  Element* const data = reinterpret_cast<Element*>(item.data);
  Element* const second = reinterpret_cast<Element*>(item.second);
  for (int i = threadIdx.y; i < kSquare; i += 8) {
    const int64_t row = block_row + i, col = block_col + threadIdx.x;
    if (row >= item.n || col > row) continue;
    const Element value = data[row * item.ld + col];
    square[i][threadIdx.x] = value;
    if (second != nullptr) second[row * item.second_ld + col] = value;
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kSquare; i += 8) {
    const int64_t row = block_col + i, col = block_row + threadIdx.x;  // the mirrored place
    if (col >= item.n || row >= col) continue;
    const Element value = static_cast<Element>(square[threadIdx.x][i]);
    data[row * item.ld + col] = value;
    if (second != nullptr) second[row * item.second_ld + col] = value;
  }
}

__global__ void __launch_bounds__(256) MirrorKernel(const __grid_constant__ MirrorList list) {
  __shared__ uint32_t square[kSquare][kSquare + 1];
  int low = 0, count = list.count;
  while (count > 1) {
    const int half = count / 2;
    const bool above = list.items[low + half].first_tile <= static_cast<int>(blockIdx.x);
    low += above ? half : 0;
    count = above ? count - half : half;
  }
  const MirrorItem& item = list.items[low];
  const int64_t tile = static_cast<int>(blockIdx.x) - item.first_tile;
  // Tile number of (i, j), i >= j: i (i + 1) / 2 + j.
  int64_t i = static_cast<int64_t>((sqrt(8.0 * tile + 1) - 1) / 2);
  while (i * (i + 1) / 2 > tile) --i;
  while ((i + 1) * (i + 2) / 2 <= tile) ++i;
  const int64_t j = tile - i * (i + 1) / 2;
  if (item.element_bytes == 2) {
    Mirror<uint16_t>(item, i * kSquare, j * kSquare, square);
  } else {
    Mirror<uint32_t>(item, i * kSquare, j * kSquare, square);
  }
}

constexpr int kMaxFactors = 512;
struct FactorList {
  int32_t count, total;
  FactorItem items[kMaxFactors];
};

__global__ void FactorKernel(const __grid_constant__ FactorList list, float* factors) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= list.count) return;
  const FactorItem& item = list.items[i];
  double divisor = 1;
  if (item.divisor != nullptr) {
    // Not fmax: a NaN norm must stay one.
    const double bounded = *item.divisor < item.floor ? item.floor : *item.divisor;
    for (int power = 0; power < item.power; ++power) divisor *= bounded;
  }
  factors[i] = static_cast<float>(item.alpha / divisor);
  factors[list.total + i] = static_cast<float>(item.beta / divisor);
}

constexpr int kMaxDiagonals = 200;
constexpr int kWarps = 8;
struct DiagonalList {
  int32_t count;
  DiagonalItem items[kMaxDiagonals];
};

__device__ void SumDiagonal(const DiagonalItem& item, int64_t row) {
  float sum = 0;
  for (int64_t k = threadIdx.x % 32; k < item.k; k += 32) {
    sum = fmaf(ReadOne(item.a, row * item.a_row + k * item.a_k, item.input),
               ReadOne(item.b, k * item.b_k + row * item.b_col, item.input), sum);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(~0u, sum, offset);
  if (threadIdx.x % 32 != 0) return;
  sum *= *item.alpha;
  if (item.c != nullptr)
    sum = fmaf(*item.beta, ReadOne(item.c, row * item.c_ld + row, item.output), sum);
  item.sums[row] = sum;
}

__device__ void PlaceDiagonal(const DiagonalItem& item, int64_t row) {
  if (threadIdx.x % 32 != 0) return;
  if (item.d != nullptr)
    WriteOne(item.d, row * item.d_ld + row, item.output, item.sums[row] + item.diagonal);
  if (item.d2 != nullptr)
    WriteOne(item.d2, row * item.d2_ld + row, item.output, item.sums[row] + item.diagonal2);
}

__global__ void __launch_bounds__(32 * kWarps)
    DiagonalKernel(const __grid_constant__ DiagonalList list, DiagonalPhase phase) {
  int low = 0, count = list.count;
  while (count > 1) {
    const int half = count / 2;
    const bool above = list.items[low + half].first_block <= static_cast<int>(blockIdx.x);
    low += above ? half : 0;
    count = above ? count - half : half;
  }
  const DiagonalItem& item = list.items[low];
  const int64_t row =
      int64_t{static_cast<int>(blockIdx.x) - item.first_block} * kWarps + threadIdx.x / 32;
  if (row >= item.n) return;
  if (phase == DiagonalPhase::kSum) {
    SumDiagonal(item, row);
  } else {
    PlaceDiagonal(item, row);
  }
}

}  // namespace

cudaError_t LaunchMirror(cudaStream_t stream, MirrorItem* items, int count) {
  for (int first = 0; first < count; first += kMaxMirrors) {
    static thread_local MirrorList list;
    list.count = count - first < kMaxMirrors ? count - first : kMaxMirrors;
    int tiles = 0;
    for (int i = 0; i < list.count; ++i) {
      list.items[i] = items[first + i];
      list.items[i].first_tile = tiles;
      const int64_t squares = (items[first + i].n + kSquare - 1) / kSquare;
      tiles += static_cast<int>(squares * (squares + 1) / 2);
    }
    if (tiles == 0) continue;
    MirrorKernel<<<tiles, dim3(kSquare, 8), 0, stream>>>(list);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t LaunchFactors(cudaStream_t stream, const FactorItem* items, int count, float* factors) {
  for (int first = 0; first < count; first += kMaxFactors) {
    static thread_local FactorList list;
    list.count = count - first < kMaxFactors ? count - first : kMaxFactors;
    list.total = count;
    for (int i = 0; i < list.count; ++i) list.items[i] = items[first + i];
    FactorKernel<<<(list.count + 127) / 128, 128, 0, stream>>>(list, factors + first);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t LaunchDiagonals(cudaStream_t stream, const DiagonalItem* items, int count,
                            DiagonalPhase phase) {
  for (int first = 0; first < count; first += kMaxDiagonals) {
    static thread_local DiagonalList list;
    list.count = count - first < kMaxDiagonals ? count - first : kMaxDiagonals;
    int blocks = 0;
    for (int i = 0; i < list.count; ++i) {
      list.items[i] = items[first + i];
      list.items[i].first_block = blocks;
      blocks += (items[first + i].n + kWarps - 1) / kWarps;
    }
    if (blocks == 0) continue;
    DiagonalKernel<<<blocks, 32 * kWarps, 0, stream>>>(list, phase);
    if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace muond::elementwise
