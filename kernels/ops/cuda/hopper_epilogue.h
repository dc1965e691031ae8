// The end of a strip: alpha acc + beta C + diagonal I from a warpgroup's registers to its slot of shared memory, the transposed
// blocks beside it. Called by the 128 threads of a consumer warpgroup; `acc` as hopper_wgmma.h lays it out.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/ops/cuda/hopper_program.h"
#include "kernels/ops/cuda/hopper_ptx.h"

namespace muond::hopper {

constexpr uint32_t kBox = 64 * 64 * 2;        // bytes: 64 x 64 elements
constexpr uint32_t kMirrorInSlot = 4 * kBox;  // a C/D slot: 4 boxes of D, then 2 of the mirror

template <bool kBf16>
__device__ __forceinline__ float2 Unpack(uint32_t v) {
  if constexpr (kBf16) {
    return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&v));
  } else {
    return __half22float2(*reinterpret_cast<__half2*>(&v));
  }
}
template <bool kBf16>
__device__ __forceinline__ uint32_t Pack(float x, float y) {
  uint32_t v;
  if constexpr (kBf16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(y), "f"(x));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(y), "f"(x));
  }
  return v;
}

// In the diagonal 64 x 64 block of a symmetric product: keeps rows >= columns of D and takes the rest from its
// transpose, 8 elements at a time. With `diagonal2`, D2's block takes the transpose's place: D with those 64 elements.
__device__ __forceinline__ void ChooseTriangle(uint32_t d, uint32_t mirror, int thread,
                                               const uint16_t* diagonal2) {
  for (int piece = thread; piece < 512; piece += 128) {
    const int r = piece >> 3, c = piece & 7;
    if (8 * c + 7 <= r && diagonal2 == nullptr) continue;
    const uint32_t at = static_cast<uint32_t>(r * 128 + ((c ^ (r & 7)) << 4));
    uint32_t v[4], w[4];
    LoadShared(v, d + at);
    LoadShared(w, mirror + at);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * c + 2 * i;
      const uint32_t low = r >= column ? v[i] & 0xffffu : w[i] & 0xffffu;
      const uint32_t high = r >= column + 1 ? v[i] & 0xffff0000u : w[i] & 0xffff0000u;
      v[i] = low | high;
      w[i] = v[i];
      if (diagonal2 != nullptr) {
        if (r == column) w[i] = high | diagonal2[r];
        if (r == column + 1) w[i] = low | (static_cast<uint32_t>(diagonal2[r]) << 16);
      }
    }
    StoreShared(d + at, v);
    if (diagonal2 != nullptr) StoreShared(mirror + at, w);
  }
}

struct Scalars {
  float alpha, beta, diagonal, diagonal2;
};

// alpha * acc + beta * C + diagonal I, in place of C in the slot; the transposed strip beside it. Every 64-column block
// is handed to the store warp as soon as it is there.
template <bool kBf16>
__device__ __forceinline__ void Epilogue(const float (&acc)[128], int blocks, uint32_t flags,
                                         bool mirrors, int diagonal_block, const Scalars& s,
                                         uint32_t d, uint32_t mirror_late, int thread, int group,
                                         uint16_t* diagonal2, uint32_t drain) {
  const bool has_c = (flags & kHasC) != 0;
  const bool has_diagonal = (flags & kHasDiagonal) != 0;
  const int warp = thread >> 5, lane = thread & 31;
  const int i = lane >> 3, r = lane & 7;  // this lane addresses row r of 8x8 matrix i of a 16 x 16
  // Matrix i: rows 8 (i & 1), columns 8 (i >> 1). Columns 16 q on, an address differs in bits 5 and 6: the swizzle.
  const uint32_t lane_d =
      d + static_cast<uint32_t>((16 * warp + r + 8 * (i & 1)) * 128 + (((i >> 1) ^ r) << 4));
  // In the mirror its rows are columns: 128 bytes a column, 2048 bytes 16 columns.
  const uint32_t lane_mirror =
      static_cast<uint32_t>((8 * (i >> 1) + r) * 128 + (((2 * warp + (i & 1)) ^ r) << 4));
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (j < blocks) {
      const uint32_t box = lane_d + static_cast<uint32_t>(j) * kBox;
      const uint32_t mirror = j < 2 ? d + kMirrorInSlot + static_cast<uint32_t>(j) * kBox
                                    : mirror_late + static_cast<uint32_t>(j - 2) * kBox;
      uint32_t v[4][4];
      if (has_c) {
#pragma unroll
        for (int q = 0; q < 4; ++q) LoadMatrix(v[q], box ^ static_cast<uint32_t>(q << 5));
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {  // 16 columns
        float a[8];
#pragma unroll
        for (int h = 0; h < 8; ++h) a[h] = s.alpha * acc[32 * j + 8 * q + h];
        if (has_c) {
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const float2 c = Unpack<kBf16>(v[q][h]);
            a[2 * h] = fmaf(s.beta, c.x, a[2 * h]);
            a[2 * h + 1] = fmaf(s.beta, c.y, a[2 * h + 1]);
          }
        }
        if (has_diagonal && j == diagonal_block && q == warp) {
#pragma unroll
          for (int h = 0; h < 4;
               h += 3) {  // rows and columns 0-7, then 8-15, of the 16 x 16 on the diagonal
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (lane >> 2 == 2 * (lane & 3) + e) {
                float& x = a[2 * h + e];
                diagonal2[16 * warp + (h == 3 ? 8 : 0) + (lane >> 2)] =
                    static_cast<uint16_t>(Pack<kBf16>(x + s.diagonal2, 0.f));
                x += s.diagonal;
              }
            }
          }
        }
#pragma unroll
        for (int h = 0; h < 4; ++h) v[q][h] = Pack<kBf16>(a[2 * h], a[2 * h + 1]);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) StoreMatrix(box ^ static_cast<uint32_t>(q << 5), v[q]);
      if (mirrors) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          StoreMatrixTransposed(mirror + lane_mirror + static_cast<uint32_t>(q) * 2048, v[q]);
        }
        if (j == diagonal_block) {
          asm volatile("bar.sync %0, 128;" ::"r"(1 + group) : "memory");
          ChooseTriangle(d + static_cast<uint32_t>(j) * kBox, mirror, thread,
                         (flags & kHasD2) ? diagonal2 : nullptr);
        }
      }
      FenceAsyncShared();
      BarrierArrive(drain + 8 * static_cast<uint32_t>(j));
    }
  }
  if (blocks == 0) BarrierArrive(drain);
}

}  // namespace muond::hopper
