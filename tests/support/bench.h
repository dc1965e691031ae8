// Bench: one device with a stream and its verbs, and tensors on it. A contract test runs the same case on two benches,
// the subject's and the fp64 reference's, and compares.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/backend.h"
#include "tests/support/dense.h"
#include "tests/support/device_array.h"

namespace muond::testing {

struct Bench {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<Ops> ops;
  Device& device() const { return *backend->devices()[0]; }
  void Finish() const { EXPECT_TRUE(stream->Synchronize().ok()); }
};

Bench ReferenceBench();
Bench CpuBench();
// On the first GPU. UNAVAILABLE where there is none.
absl::StatusOr<Bench> CudaBench();

// A matrix in device memory with `padding` extra elements a row; unset elements and the padding are NaN.
class Tensor {
 public:
  Tensor(const Bench& bench, int64_t rows, int64_t cols, DType dtype = DType::kFloat32,
         int64_t padding = 0);
  Tensor(const Bench& bench, const Dense& values, DType dtype = DType::kFloat32,
         int64_t padding = 0);
  const Matrix& matrix() const { return matrix_; }
  float* floats() const { return static_cast<float*>(matrix_.data); }
  Block AsBlock(int64_t row = 0, int64_t col = 0, int replica = 0) const;
  Dense Read() const;
  std::vector<uint8_t> Bytes() const;  // padding included
  bool PaddingIsUntouched() const;

 private:
  void Put(const Dense* values);
  const Bench* bench_;
  Matrix matrix_;
  DeviceArray<uint8_t> memory_;
};

// Values as `dtype` holds them, so that reference and subject start from the same numbers.
Dense Rounded(const Dense& values, DType dtype);
Dense Gaussian(int64_t rows, int64_t cols, uint32_t seed, double scale = 1);
Dense Slice(const Dense& values, int64_t row, int64_t col, int64_t rows, int64_t cols);

// A tensor cut into rectangles that cover it: rows at `row_cuts`, columns at `col_cuts` (both rising, inner cuts only).
// Each piece is a tensor of its own with another padding. Order is shuffled by `seed`.
struct Cut {
  std::vector<std::unique_ptr<Tensor>> pieces;
  std::vector<Block> blocks;
};
Cut CutUp(const Bench& bench, const Dense& values, DType dtype, std::vector<int64_t> row_cuts,
          std::vector<int64_t> col_cuts, int replica = 0, uint32_t seed = 1);

// Distance between neighbouring values of the dtype around 1.
double Epsilon(DType dtype);
std::string Name(DType dtype);

}  // namespace muond::testing
