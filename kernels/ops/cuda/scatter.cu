// Scatter, Flip and the small launches around the products: mirror, scale factors, parameters to memory.
#include "kernels/ops/cuda/elements.cuh"
#include "kernels/ops/cuda/passes.h"

namespace muond::elementwise {
namespace {

template <bool kWhole>
__device__ __forceinline__ void DoTile(const ScatterItem& item, const Tile& tile) {
  constexpr int kGroups = 4;
  constexpr int kStride = kThreads * kVector;
#pragma unroll 1
  for (int round = 0; round < kVectorsPerThread / kGroups; ++round) {
    const int64_t first = tile.begin + round * kGroups * kStride + threadIdx.x * kVector;
    Four x[kGroups];
    ReadPlane<kWhole>(item.from, item.extent, first, kStride, x);
#pragma unroll
    for (int i = 0; i < kGroups; ++i) WritePlane<kWhole>(item.to, item.extent, first + i * kStride, x[i]);
  }
}

template <int kBytes>
__global__ void __launch_bounds__(kThreads) ScatterKernel(const __grid_constant__ List<kBytes> list) {
  const ScatterItem& item = FindItem(list.template item_array<ScatterItem>(), list.items, blockIdx.x);
  const Tile tile(item.extent);
  if (tile.full && IsWhole(item.from) && IsWhole(item.to)) {
    DoTile<true>(item, tile);
  } else {
    DoTile<false>(item, tile);
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
__global__ void PutKernel(const __grid_constant__ Bytes<kBytes> bytes, uint64_t* destination, int words) {
  for (int i = threadIdx.x; i < words; i += blockDim.x) destination[i] = bytes.words[i];
}

// 32 x 32 squares through shared memory; only squares on and below the diagonal have a CTA.
constexpr int kSquare = 32;
constexpr int kMaxMirrors = 512;
struct MirrorList {
  int32_t count;
  MirrorItem items[kMaxMirrors];
};

template <typename Element>
__device__ void Mirror(const MirrorItem& item, int64_t block_row, int64_t block_col, uint32_t (*square)[kSquare + 1]) {
  Element* const data = reinterpret_cast<Element*>(item.data);
  for (int i = threadIdx.y; i < kSquare; i += 8) {
    const int64_t row = block_row + i, col = block_col + threadIdx.x;
    if (row < item.n && col < item.n) square[i][threadIdx.x] = data[row * item.ld + col];
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kSquare; i += 8) {
    const int64_t row = block_col + i, col = block_row + threadIdx.x;  // the mirrored place
    if (row < item.n && col < item.n && row < col) data[row * item.ld + col] = square[threadIdx.x][i];
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
  double alpha = item.alpha;
  if (item.divisor != nullptr) {
    const double divisor = fmax(*item.divisor, item.floor);
    for (int power = 0; power < item.power; ++power) alpha /= divisor;
  }
  factors[i] = static_cast<float>(alpha);
  factors[list.total + i] = static_cast<float>(item.beta);
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

template <int kBytes>
static cudaError_t Put(cudaStream_t stream, void* destination, const void* bytes, int size_bytes) {
  Bytes<kBytes> list;
  for (int i = 0; i < size_bytes / 8; ++i) list.words[i] = static_cast<const uint64_t*>(bytes)[i];
  PutKernel<kBytes><<<1, 256, 0, stream>>>(list, static_cast<uint64_t*>(destination), size_bytes / 8);
  return cudaGetLastError();
}

cudaError_t LaunchPut(cudaStream_t stream, void* destination, const void* bytes, int size_bytes) {
  if (size_bytes > kLargeListBytes || size_bytes % 8 != 0) return cudaErrorInvalidValue;
  if (size_bytes <= kSmallListBytes) return Put<kSmallListBytes>(stream, destination, bytes, size_bytes);
  return Put<kLargeListBytes>(stream, destination, bytes, size_bytes);
}

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

}  // namespace muond::elementwise
