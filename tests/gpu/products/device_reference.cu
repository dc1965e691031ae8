#include <cuda_bf16.h>

#include "tests/gpu/products/device_reference.h"

namespace muond::test {
namespace {

__device__ double Load(const double* p, int64_t i) { return p[i]; }
__device__ float Load(const uint16_t* p, int64_t i) {
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(p)[i]);
}
__device__ void Store(double* p, int64_t i, double x) { p[i] = x; }
__device__ void Store(uint16_t* p, int64_t i, float x) {
  reinterpret_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16(x);
}

template <typename T, typename Sum>
__global__ void Multiply(T* d, const T* a, const T* b, const T* c, int m, int n, int k, bool ta,
                         bool tb, Sum alpha, Sum beta) {
  __shared__ Sum left[16][17], right[16][17];
  const int row = blockIdx.y * 16 + threadIdx.y, column = blockIdx.x * 16 + threadIdx.x;
  Sum sum = 0;
  for (int k0 = 0; k0 < k; k0 += 16) {
    const int ka = k0 + threadIdx.x, kb = k0 + threadIdx.y;
    left[threadIdx.y][threadIdx.x] =
        row < m && ka < k
            ? Load(a, ta ? static_cast<int64_t>(ka) * m + row : static_cast<int64_t>(row) * k + ka)
            : Sum(0);
    right[threadIdx.y][threadIdx.x] = column < n && kb < k
                                          ? Load(b, tb ? static_cast<int64_t>(column) * k + kb
                                                       : static_cast<int64_t>(kb) * n + column)
                                          : Sum(0);
    __syncthreads();
    for (int i = 0; i < 16; ++i) sum += left[threadIdx.y][i] * right[i][threadIdx.x];
    __syncthreads();
  }
  if (row >= m || column >= n) return;
  const int64_t at = static_cast<int64_t>(row) * n + column;
  sum *= alpha;
  if (c != nullptr) sum += beta * Load(c, at);
  Store(d, at, sum);
}

template <typename T, typename Sum>
void Run(T* d, const T* a, const T* b, const T* c, int m, int n, int k, bool ta, bool tb,
         double alpha, double beta) {
  const dim3 grid((n + 15) / 16, (m + 15) / 16), block(16, 16);
  Multiply<T, Sum><<<grid, block>>>(d, a, b, c, m, n, k, ta, tb, static_cast<Sum>(alpha),
                                    static_cast<Sum>(beta));
}

}  // namespace

void ProductInDouble(double* d, const double* a, const double* b, const double* c, int m, int n,
                     int k, bool a_transposed, bool b_transposed, double alpha, double beta) {
  Run<double, double>(d, a, b, c, m, n, k, a_transposed, b_transposed, alpha, beta);
}

void ProductInBFloat16(uint16_t* d, const uint16_t* a, const uint16_t* b, const uint16_t* c, int m,
                       int n, int k, bool a_transposed, bool b_transposed, double alpha,
                       double beta) {
  Run<uint16_t, float>(d, a, b, c, m, n, k, a_transposed, b_transposed, alpha, beta);
}

}  // namespace muond::test
