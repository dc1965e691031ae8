// cuBLAS beside us: the sustained rate that shares of the floor refer to, and dense Newton-Schulz one matrix at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/runtime/dtype.h"

namespace muond::bench {

class CublasPeer {
 public:
  // `scratch` of `bytes` is used for operands; both must outlive the peer.
  static absl::StatusOr<CublasPeer> Create(cudaStream_t stream, void* scratch, uint64_t bytes);

  // FLOP/s of n x n x n products of random matrices, back to back for `milliseconds`.
  double SustainedRate(DType dtype, int64_t n, double milliseconds);
  // Milliseconds of one matrix's standard Newton-Schulz in fp16, all products dense and without their beta C (in its
  // favour), back to back for `milliseconds`; sides up to 1024 as strided batches of 16.
  double DenseNewtonSchulz(int64_t rows, int64_t cols, int steps, double milliseconds);

 private:
  CublasPeer(cudaStream_t stream, void* handle, void* scratch, uint64_t bytes)
      : stream_(stream), handle_(handle), scratch_(scratch), bytes_(bytes) {}

  cudaStream_t stream_;
  void* handle_;  // cublasHandle_t, kept until the process ends
  void* scratch_;
  uint64_t bytes_;
};

}  // namespace muond::bench
