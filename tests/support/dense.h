// Dense: a small row-major matrix of double, and the exact arithmetic that kernels are compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops/ops.h"
#include "kernels/optim/newton_schulz.h"

namespace muond::testing {

struct Dense {
  int64_t rows = 0, cols = 0;
  std::vector<double> values;

  Dense() = default;
  Dense(int64_t rows, int64_t cols)
      : rows(rows), cols(cols), values(static_cast<size_t>(rows * cols)) {}
  double& operator()(int64_t row, int64_t col) {
    return values[static_cast<size_t>(row * cols + col)];
  }
  double operator()(int64_t row, int64_t col) const {
    return values[static_cast<size_t>(row * cols + col)];
  }
};

Dense Transposed(const Dense& a);
Dense Times(const Dense& a, const Dense& b);
double Frobenius(const Dense& a);
double FrobeniusDistance(const Dense& a, const Dense& b);
double MaxDistance(const Dense& a, const Dense& b);

// fp32 images and back. FromFloats takes `ld` elements between rows.
std::vector<float> ToFloats(const Dense& a);
Dense FromFloats(const float* data, int64_t rows, int64_t cols, int64_t ld);
Dense FromMatrix(const Matrix& matrix);

// The composed polynomial of `table` applied to x / max(||x||_F, eps), all in double.
Dense Polynomial(const Dense& x, const CoefficientTable& table, double eps);

}  // namespace muond::testing
