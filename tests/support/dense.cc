#include "tests/support/dense.h"

#include <algorithm>
#include <cmath>

#include "kernels/ops/convert.h"

namespace muond::testing {

Dense Transposed(const Dense& a) {
  Dense result(a.cols, a.rows);
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t col = 0; col < a.cols; ++col) result(col, row) = a(row, col);
  }
  return result;
}

Dense Times(const Dense& a, const Dense& b) {
  Dense result(a.rows, b.cols);
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t k = 0; k < a.cols; ++k) {
      const double factor = a(row, k);
      for (int64_t col = 0; col < b.cols; ++col) result(row, col) += factor * b(k, col);
    }
  }
  return result;
}

double Frobenius(const Dense& a) {
  double sum = 0;
  for (double value : a.values) sum += value * value;
  return std::sqrt(sum);
}

double FrobeniusDistance(const Dense& a, const Dense& b) {
  double sum = 0;
  for (size_t i = 0; i < a.values.size(); ++i)
    sum += (a.values[i] - b.values[i]) * (a.values[i] - b.values[i]);
  return std::sqrt(sum);
}

double MaxDistance(const Dense& a, const Dense& b) {
  double largest = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double distance = std::fabs(a.values[i] - b.values[i]);
    if (!(distance <= largest)) largest = distance;  // NaN wins
  }
  return largest;
}

std::vector<float> ToFloats(const Dense& a) { return {a.values.begin(), a.values.end()}; }

Dense FromFloats(const float* data, int64_t rows, int64_t cols, int64_t ld) {
  Dense result(rows, cols);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) result(row, col) = data[row * ld + col];
  }
  return result;
}

Dense FromMatrix(const Matrix& m) {
  if (m.dtype == DType::kFloat32)
    return FromFloats(static_cast<const float*>(m.data), m.rows, m.cols, m.ld);
  const auto* data = static_cast<const uint16_t*>(m.data);
  Dense result(m.rows, m.cols);
  for (int64_t row = 0; row < m.rows; ++row) {
    for (int64_t col = 0; col < m.cols; ++col) {
      const uint16_t bits = data[row * m.ld + col];
      result(row, col) = m.dtype == DType::kBFloat16 ? BFloat16ToFloat(bits) : Float16ToFloat(bits);
    }
  }
  return result;
}

Dense Polynomial(const Dense& x, const CoefficientTable& table, double eps) {
  if (x.rows > x.cols) return Transposed(Polynomial(Transposed(x), table, eps));
  const double norm = std::max(Frobenius(x), eps);
  Dense y = x;
  for (double& value : y.values) value /= norm;
  for (const Coefficients& row : table.steps) {
    const Dense a = Times(y, Transposed(y));
    Dense z = Times(a, a);
    for (size_t i = 0; i < z.values.size(); ++i)
      z.values[i] = row.b * a.values[i] + row.c * z.values[i];
    const Dense zy = Times(z, y);
    for (size_t i = 0; i < y.values.size(); ++i) y.values[i] = row.a * y.values[i] + zy.values[i];
  }
  return y;
}

}  // namespace muond::testing
