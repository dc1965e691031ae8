// Reading and writing tiles: four elements at once where layout and alignment allow it, one by one elsewhere.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/ops/cuda/task_list.h"

namespace muond::elementwise {

struct Four {
  float v[kVector];
};

__device__ inline Four Widen(uint2 bits, DType dtype) {
  Four out;
  if (dtype == DType::kBFloat16) {
    out.v[0] = __uint_as_float(bits.x << 16);
    out.v[1] = __uint_as_float(bits.x & 0xffff0000u);
    out.v[2] = __uint_as_float(bits.y << 16);
    out.v[3] = __uint_as_float(bits.y & 0xffff0000u);
  } else {
    const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
    const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
    out.v[0] = low.x, out.v[1] = low.y, out.v[2] = high.x, out.v[3] = high.y;
  }
  return out;
}

__device__ inline uint2 Narrow(const Four& in, DType dtype) {
  uint2 bits;
  if (dtype == DType::kBFloat16) {
    const __nv_bfloat162 low = __floats2bfloat162_rn(in.v[0], in.v[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(in.v[2], in.v[3]);
    bits.x = *reinterpret_cast<const uint32_t*>(&low);
    bits.y = *reinterpret_cast<const uint32_t*>(&high);
  } else {
    const __half2 low = __floats2half2_rn(in.v[0], in.v[1]);
    const __half2 high = __floats2half2_rn(in.v[2], in.v[3]);
    bits.x = *reinterpret_cast<const uint32_t*>(&low);
    bits.y = *reinterpret_cast<const uint32_t*>(&high);
  }
  return bits;
}

__device__ inline float ReadOne(const char* data, int64_t index, DType dtype) {
  if (dtype == DType::kFloat32) return reinterpret_cast<const float*>(data)[index];
  if (dtype == DType::kBFloat16) {
    return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(data)[index]);
  }
  return __half2float(reinterpret_cast<const __half*>(data)[index]);
}

__device__ inline void WriteOne(char* data, int64_t index, DType dtype, float value) {
  if (dtype == DType::kFloat32) {
    reinterpret_cast<float*>(data)[index] = value;
  } else if (dtype == DType::kBFloat16) {
    reinterpret_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value);
  } else {
    reinterpret_cast<__half*>(data)[index] = __float2half_rn(value);
  }
}

__device__ inline Four ReadFour(const char* data, int64_t index, DType dtype) {
  if (dtype == DType::kFloat32) {
    const float4 in = *reinterpret_cast<const float4*>(data + 4 * index);
    return {in.x, in.y, in.z, in.w};
  }
  return Widen(*reinterpret_cast<const uint2*>(data + 2 * index), dtype);
}

__device__ inline void WriteFour(char* data, int64_t index, DType dtype, const Four& in) {
  if (dtype == DType::kFloat32) {
    *reinterpret_cast<float4*>(data + 4 * index) = make_float4(in.v[0], in.v[1], in.v[2], in.v[3]);
  } else {
    *reinterpret_cast<uint2*>(data + 2 * index) = Narrow(in, dtype);
  }
}

// U groups of four, `stride` elements apart, starting at `first`. The loads are issued before any is used.
template <int U>
__device__ inline void ReadMany(const char* data, int64_t first, int stride, DType dtype,
                                Four (&out)[U]) {
  if (dtype == DType::kFloat32) {
#pragma unroll
    for (int u = 0; u < U; ++u)
      out[u] = ReadFour(data, first + int64_t{u} * stride, DType::kFloat32);
  } else {
    uint2 bits[U];
#pragma unroll
    for (int u = 0; u < U; ++u) {
      bits[u] = *reinterpret_cast<const uint2*>(data + 2 * (first + int64_t{u} * stride));
    }
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = Widen(bits[u], dtype);
  }
}

struct Place {
  int64_t row, col;
};

__device__ inline Place PlaceOf(int64_t element, const Extent& extent) {
  if (extent.elements <= UINT32_MAX) {
    const uint32_t row = static_cast<uint32_t>(element) / static_cast<uint32_t>(extent.cols);
    return {row, element - int64_t{row} * extent.cols};
  }
  const int64_t row = element / extent.cols;
  return {row, element - row * extent.cols};
}

__device__ inline bool Contains(const Source& source, int64_t element, Place place, int count) {
  if (source.is_flat) return element >= source.flat.begin && element + count <= source.flat.end;
  return place.row >= source.rect.row && place.row < int64_t{source.rect.row} + source.rect.rows &&
         place.col >= source.rect.col &&
         place.col + count <= int64_t{source.rect.col} + source.rect.cols;
}

__device__ inline int64_t IndexIn(const Source& source, int64_t element, Place place) {
  if (source.is_flat) return element;
  return (place.row - source.rect.row) * source.ld + (place.col - source.rect.col);
}

// `count` (at most four) elements from `element` on, out of the sources of one replica.
__device__ inline Four GatherReplica(const Source* sources, int first, int end,
                                     const Extent& extent, int64_t element, int count) {
  const Place place = PlaceOf(element, extent);
  const bool one_row = place.col + count <= extent.cols;
  Four out = {};
  for (int i = first; i < end; ++i) {
    const Source& source = sources[i];
    if (!(source.is_flat || one_row) || !Contains(source, element, place, count)) continue;
    const int64_t index = IndexIn(source, element, place);
    if (source.aligned && count == kVector) return ReadFour(source.data, index, source.dtype);
    for (int j = 0; j < count; ++j) out.v[j] = ReadOne(source.data, index + j, source.dtype);
    return out;
  }
  for (int j = 0; j < count; ++j) {  // the group crosses the edge of a source
    const Place at = PlaceOf(element + j, extent);
    for (int i = first; i < end; ++i) {
      if (!Contains(sources[i], element + j, at, 1)) continue;
      out.v[j] = ReadOne(sources[i].data, IndexIn(sources[i], element + j, at), sources[i].dtype);
      break;
    }
  }
  return out;
}

// The sum over replicas along the balanced binary tree over the replica index: a stack machine, whose program
// (ends_replica, merges) the host wrote. 32 levels hold any 32-bit index.
__device__ __noinline__ inline Four GatherReplicas(const Source* sources, int end,
                                                   const Extent& extent, int64_t element,
                                                   int count) {
  Four stack[32];
  int depth = 0, first = 0;
  auto merge = [&] {
    --depth;
    for (int j = 0; j < kVector; ++j) stack[depth - 1].v[j] += stack[depth].v[j];
  };
  for (int i = 0; i < end; ++i) {
    if (!sources[i].ends_replica) continue;
    for (int m = 0; m < sources[i].merges; ++m) merge();
    stack[depth++] = GatherReplica(sources, first, i + 1, extent, element, count);
    first = i + 1;
  }
  while (depth > 1) merge();
  return stack[0];
}

__device__ inline Four Gather(const Source* sources, SourceRange range, const Extent& extent,
                              int64_t element, int count) {
  if (range.replicas > 1)
    return GatherReplicas(sources + range.first, range.count, extent, element, count);
  return GatherReplica(sources, range.first, range.first + range.count, extent, element, count);
}

// Reads a tile's gradient or parameter: through one pointer when a single aligned flat source holds the whole tile.
class TileReader {
 public:
  __device__ TileReader(const Source* sources, SourceRange range, const Extent& extent,
                        int64_t tile_begin)
      : sources_(sources), range_(range), extent_(extent) {
    if (range.replicas > 1 || tile_begin + kTileElements > extent.elements) return;
    for (int i = range.first; i < range.first + range.count; ++i) {
      const Source& source = sources[i];
      if (source.is_flat && source.aligned && source.flat.begin <= tile_begin &&
          source.flat.end >= tile_begin + kTileElements) {
        whole_ = source.data;
        dtype_ = source.dtype;
        break;
      }
    }
  }

  __device__ bool is_whole() const { return whole_ != nullptr; }

  // Groups at first, first + stride, …; elements past the tensor's end read as zero. kWhole promises is_whole().
  template <bool kWhole, int U>
  __device__ void Read(int64_t first, int stride, Four (&out)[U]) const {
    if constexpr (kWhole) {
      ReadMany<U>(whole_, first, stride, dtype_, out);
    } else {
      Spot at[U];  // all places first, so that the loads do not wait for one another
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int64_t element = first + int64_t{u} * stride;
        if (!LocateWhole(element, &at[u])) at[u] = {};
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int64_t element = first + int64_t{u} * stride;
        const int64_t left = extent_.elements - element;
        if (at[u].data != nullptr) {
          out[u] = ReadFour(at[u].data, at[u].index, at[u].dtype);
        } else {
          out[u] = left <= 0 ? Four{}
                             : Gather(sources_, range_, extent_, element,
                                      left < kVector ? int(left) : kVector);
        }
      }
    }
  }

 private:
  struct Spot {
    const char* data;
    int64_t index;
    DType dtype;
  };

  // Where a group of four lies, when one aligned source holds it.
  __device__ bool LocateWhole(int64_t element, Spot* at) const {
    if (range_.replicas > 1 || element + kVector > extent_.elements) return false;
    const Place place = PlaceOf(element, extent_);
    if (place.col + kVector > extent_.cols && extent_.cols % kVector != 0) return false;
    for (int i = range_.first; i < range_.first + range_.count; ++i) {
      const Source& source = sources_[i];
      if (!source.aligned || !Contains(source, element, place, kVector)) continue;
      *at = {source.data, IndexIn(source, element, place), source.dtype};
      return true;
    }
    return false;
  }

  const Source* sources_;
  SourceRange range_;
  const Extent& extent_;
  const char* whole_ = nullptr;
  DType dtype_ = DType::kFloat32;
};

__device__ inline bool IsWhole(const Plane& plane) { return plane.is_flat && plane.aligned; }

__device__ inline Four ReadPlaneSlowly(const Plane& plane, const Extent& extent, int64_t element) {
  Four out = {};
  const int64_t left = extent.elements - element;
  if (left <= 0) return out;
  const Place place = PlaceOf(element, extent);
  if (plane.aligned && left >= kVector) {
    return ReadFour(plane.data, plane.is_flat ? element : place.row * plane.ld + place.col,
                    plane.dtype);
  }
  for (int j = 0; j < kVector && j < left; ++j) {
    const Place at = PlaceOf(element + j, extent);
    out.v[j] = ReadOne(plane.data, at.row * plane.ld + at.col, plane.dtype);
  }
  return out;
}

// kWhole: the tile is full and the plane is whole.
template <bool kWhole, int U>
__device__ inline void ReadPlane(const Plane& plane, const Extent& extent, int64_t first,
                                 int stride, Four (&out)[U]) {
  if constexpr (kWhole) {
    ReadMany<U>(plane.data, first, stride, plane.dtype, out);
  } else {
#pragma unroll
    for (int u = 0; u < U; ++u)
      out[u] = ReadPlaneSlowly(plane, extent, first + int64_t{u} * stride);
  }
}

__device__ inline void WritePlaneSlowly(const Plane& plane, const Extent& extent, int64_t element,
                                        const Four& value) {
  const int64_t left = extent.elements - element;
  if (left <= 0) return;
  if (plane.aligned && left >= kVector) {
    int64_t index = element;
    if (!plane.is_flat) {
      const Place place = PlaceOf(element, extent);
      index = place.row * plane.ld + place.col;
    }
    return WriteFour(plane.data, index, plane.dtype, value);
  }
  for (int j = 0; j < kVector && j < left; ++j) {
    const Place at = PlaceOf(element + j, extent);
    WriteOne(plane.data, at.row * plane.ld + at.col, plane.dtype, value.v[j]);
  }
}

template <bool kWhole>
__device__ inline void WritePlane(const Plane& plane, const Extent& extent, int64_t element,
                                  const Four& value) {
  if constexpr (kWhole) {
    WriteFour(plane.data, element, plane.dtype, value);
  } else {
    WritePlaneSlowly(plane, extent, element, value);
  }
}

// Dense fp32 state as a plane.
__device__ inline Plane StatePlane(const float* state, bool aligned, const Extent& extent) {
  return {reinterpret_cast<char*>(const_cast<float*>(state)), extent.cols, DType::kFloat32, true,
          aligned};
}

// Where a CTA's tile lies.
struct Tile {
  int number;     // in the tensor
  int64_t begin;  // its first element
  bool full;

  __device__ explicit Tile(const Extent& extent)
      : number(extent.first_tile + static_cast<int>(blockIdx.x) - extent.launch_tile),
        begin(int64_t{number} * kTileElements),
        full(begin + kTileElements <= extent.elements) {}
};

// The item that the launch's tile `tile` belongs to: the last one that starts at or before it.
template <class Item>
__device__ inline const Item& FindItem(const Item* items, int count, int tile) {
  int low = 0;
  while (count > 1) {
    const int half = count / 2;
    if (items[low + half].extent.launch_tile <= tile) {
      low += half;
      count -= half;
    } else {
      count = half;
    }
  }
  return items[low];
}

// A sum over the CTA along a fixed tree; the result is thread 0's. `shared` holds one value a warp.
__device__ inline double BlockSum(double value, double* shared) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(~0u, value, offset);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x < 32) {
    value = threadIdx.x < kThreads / 32 ? shared[threadIdx.x] : 0;
    for (int offset = kThreads / 64; offset > 0; offset /= 2)
      value += __shfl_down_sync(~0u, value, offset);
  }
  __syncthreads();
  return value;
}

// Non-negative values only: they order as their bits do. Every thread gets the result.
__device__ inline uint32_t BlockMaximumBits(uint32_t value, uint32_t* shared) {
  value = __reduce_max_sync(~0u, value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[threadIdx.x % (kThreads / 32)];
  value = __reduce_max_sync(~0u, value);
  __syncthreads();
  return value;
}

// True, in every thread, for the CTA that finishes the last of `tiles` tiles; the counter is zero again then. What thread 0
// wrote before, and others before the CTA's last barrier, is in L2 then: read it by __ldcg. A release, and no __threadfence:
// that would throw away the L1 of all CTAs of the multiprocessor each time.
__device__ inline bool FinishesLast(uint32_t* tiles_done, int tiles, bool* shared) {
  if (threadIdx.x == 0) {
    uint32_t done;
    asm volatile("atom.add.release.gpu.global.u32 %0, [%1], 1;"
                 : "=r"(done)
                 : "l"(tiles_done)
                 : "memory");
    *shared = done + 1 == static_cast<uint32_t>(tiles);
    if (*shared) {
      *tiles_done = 0;
      __threadfence();
    }
  }
  __syncthreads();
  return *shared;
}

}  // namespace muond::elementwise
