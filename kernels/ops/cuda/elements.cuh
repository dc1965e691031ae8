// Elements wherever they lie: four at once where layout and alignment allow it, one by one elsewhere. Tiles: tiles.cuh.
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

__device__ inline const char* AddressOf(const Source& source) {
  if (source.base == nullptr) return source.data;
  return static_cast<const char*>(*source.base) + reinterpret_cast<intptr_t>(source.data);
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
    const char* const data = AddressOf(source);
    if (source.aligned && count == kVector) return ReadFour(data, index, source.dtype);
    for (int j = 0; j < count; ++j) out.v[j] = ReadOne(data, index + j, source.dtype);
    return out;
  }
  for (int j = 0; j < count; ++j) {  // the group crosses the edge of a source
    const Place at = PlaceOf(element + j, extent);
    for (int i = first; i < end; ++i) {
      if (!Contains(sources[i], element + j, at, 1)) continue;
      out.v[j] =
          ReadOne(AddressOf(sources[i]), IndexIn(sources[i], element + j, at), sources[i].dtype);
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

__device__ __noinline__ inline Four Gather(const Source* sources, SourceRange range,
                                           const Extent& extent, int64_t element, int count) {
  if (range.replicas > 1)
    return GatherReplicas(sources + range.first, range.count, extent, element, count);
  return GatherReplica(sources, range.first, range.first + range.count, extent, element, count);
}

__device__ inline bool IsWhole(const Plane& plane) { return plane.is_flat && plane.aligned; }

__device__ __noinline__ inline Four ReadPlaneSlowly(const Plane& plane, const Extent& extent,
                                                    int64_t element) {
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

__device__ __noinline__ inline void WritePlaneSlowly(const Plane& plane, const Extent& extent,
                                                     int64_t element, const Four& value) {
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

// Dense fp32 state as a plane.
__device__ inline Plane StatePlane(const float* state, bool aligned, const Extent& extent) {
  return {reinterpret_cast<char*>(const_cast<float*>(state)), extent.cols, DType::kFloat32, true,
          aligned};
}

}  // namespace muond::elementwise
