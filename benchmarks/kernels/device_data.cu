#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "benchmarks/kernels/device_data.h"

namespace muond::bench {
namespace {

__device__ uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

__device__ void Store(__half* p, float x) { *p = __float2half(x); }
__device__ void Store(__nv_bfloat16* p, float x) { *p = __float2bfloat16(x); }
__device__ void Store(float* p, float x) { *p = x; }

template <typename T>
__global__ void Fill(T* data, int64_t rows, int64_t cols, int64_t ld, uint64_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t half = (cols + 1) / 2;  // two elements of a Box-Muller pair a thread
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * half;
       i += step) {
    const int64_t row = i / half, col = i % half * 2;
    const uint64_t bits = Mix(Mix(seed) + static_cast<uint64_t>(i));
    const float u = static_cast<float>((bits >> 40) + 1) * (1.0f / 16777217.0f);
    const float v = static_cast<float>(bits & 0xffffff) * (1.0f / 16777216.0f);
    const float radius = sqrtf(-2 * __logf(u));
    Store(data + row * ld + col, radius * cospif(2 * v));
    if (col + 1 < cols) Store(data + row * ld + col + 1, radius * sinpif(2 * v));
  }
}

}  // namespace

void FillNormal(cudaStream_t stream, const Matrix& m, uint64_t seed) {
  const int blocks = 2048, threads = 256;
  switch (m.dtype) {
    case DType::kFloat16:
      Fill<<<blocks, threads, 0, stream>>>(static_cast<__half*>(m.data), m.rows, m.cols, m.ld,
                                           seed);
      return;
    case DType::kBFloat16:
      Fill<<<blocks, threads, 0, stream>>>(static_cast<__nv_bfloat16*>(m.data), m.rows, m.cols,
                                           m.ld, seed);
      return;
    case DType::kFloat32:
      Fill<<<blocks, threads, 0, stream>>>(static_cast<float*>(m.data), m.rows, m.cols, m.ld, seed);
      return;
  }
}

}  // namespace muond::bench
