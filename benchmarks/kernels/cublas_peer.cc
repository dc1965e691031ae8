#include "benchmarks/kernels/cublas_peer.h"

#include <cublas_v2.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "benchmarks/kernels/device_data.h"

namespace muond::bench {
namespace {

// Calls `run` until `milliseconds` have passed, in chunks; the mean of the second half on: a hot chip.
template <typename Run>
double MeanMilliseconds(cudaStream_t stream, double milliseconds, Run run) {
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const auto time = [&](int calls) {
    cudaEventRecord(begin, stream);
    for (int i = 0; i < calls; ++i) run();
    cudaEventRecord(end, stream);
    cudaEventSynchronize(end);
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    return static_cast<double>(ms);
  };
  run();
  const double one = std::max(time(1), 1e-3);
  const int calls = std::clamp(static_cast<int>(milliseconds / 2 / one), 1, 5000);
  time(calls);
  const double total = time(calls);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return total / calls;
}

}  // namespace

absl::StatusOr<CublasPeer> CublasPeer::Create(cudaStream_t stream, void* scratch, uint64_t bytes) {
  cublasHandle_t handle;
  const cublasStatus_t status = cublasCreate(&handle);
  if (status != CUBLAS_STATUS_SUCCESS) {
    return absl::InternalError(absl::StrFormat("cublasCreate: %s", cublasGetStatusString(status)));
  }
  cublasSetStream(handle, stream);
  return CublasPeer(stream, handle, scratch, bytes);
}

double CublasPeer::SustainedRate(DType dtype, int64_t n, double milliseconds) {
  char* next = static_cast<char*>(scratch_);
  Matrix m[3];
  for (int i = 0; i < 3; ++i) {
    m[i] = {next, n, n, n, dtype};
    next += n * n * 2;
    FillNormal(stream_, m[i], static_cast<uint64_t>(i) + 1);
  }
  const cudaDataType_t type = dtype == DType::kBFloat16 ? CUDA_R_16BF : CUDA_R_16F;
  const float one = 1, zero = 0;
  const int side = static_cast<int>(n);
  const double ms = MeanMilliseconds(stream_, milliseconds, [&] {
    cublasGemmEx(static_cast<cublasHandle_t>(handle_), CUBLAS_OP_T, CUBLAS_OP_N, side, side, side,
                 &one, m[0].data, type, side, m[1].data, type, side, &zero, m[2].data, type, side,
                 CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  });
  return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) /
         (ms * 1e-3);
}

double CublasPeer::DenseNewtonSchulz(int64_t rows, int64_t cols, int steps, double milliseconds) {
  const int64_t s = std::min(rows, cols), l = std::max(rows, cols);
  const int batch = s <= 1024 ? 16 : 1;
  char* next = static_cast<char*>(scratch_);
  const auto take = [&](int64_t r, int64_t c) {
    const Matrix m{next, r * batch, c, c, DType::kFloat16};
    next += r * batch * c * 2;
    FillNormal(stream_, m, 7);
    return m.data;
  };
  void* const x = take(s, l);
  void* const x2 = take(s, l);
  void* const a = take(s, s);
  void* const z = take(s, s);
  if (next > static_cast<char*>(scratch_) + bytes_) return 0;
  const int si = static_cast<int>(s), li = static_cast<int>(l);
  const float small = 1e-4f, zero = 0;
  // Column-major: a row-major [s, l] matrix is cuBLAS's l x s.
  const auto product = [&](cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                           void* left, int ld_left, void* right, int ld_right, void* out, int ld) {
    cublasGemmStridedBatchedEx(
        static_cast<cublasHandle_t>(handle_), op_a, op_b, m, n, k, &small, left, CUDA_R_16F,
        ld_left, left == x || left == x2 ? s * l : s * s, right, CUDA_R_16F, ld_right,
        right == x || right == x2 ? s * l : s * s, &zero, out, CUDA_R_16F, ld,
        out == x || out == x2 ? s * l : s * s, batch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  };
  // Both orientations cost the same; wide is timed.
  const double ms = MeanMilliseconds(stream_, milliseconds, [&] {
    for (int i = 0; i < steps; ++i) {
      product(CUBLAS_OP_T, CUBLAS_OP_N, si, si, li, x, li, x, li, a, si);   // A = X X^T
      product(CUBLAS_OP_N, CUBLAS_OP_N, si, si, si, a, si, a, si, z, si);   // A A
      product(CUBLAS_OP_N, CUBLAS_OP_N, li, si, si, x, li, z, si, x2, li);  // Z X
    }
  });
  return ms / batch;
}

}  // namespace muond::bench
