#include "tests/support/matrix_zoo.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/ops/convert.h"

namespace muond::testing {
namespace {

// Orthonormal columns by Gram-Schmidt, twice.
Dense Orthonormal(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Dense qt(cols, rows);  // rows of qt are the columns
  for (int64_t i = 0; i < cols; ++i) {
    double* vi = &qt(i, 0);
    for (int64_t k = 0; k < rows; ++k) vi[k] = normal(random);
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t j = 0; j < i; ++j) {
        const double* vj = &qt(j, 0);
        double dot = 0;
        for (int64_t k = 0; k < rows; ++k) dot += vi[k] * vj[k];
        for (int64_t k = 0; k < rows; ++k) vi[k] -= dot * vj[k];
      }
    }
    double norm = 0;
    for (int64_t k = 0; k < rows; ++k) norm += vi[k] * vi[k];
    for (int64_t k = 0; k < rows; ++k) vi[k] /= std::sqrt(norm);
  }
  return Transposed(qt);
}

std::vector<double> Spectrum(const std::string& name, int64_t s) {
  std::vector<double> sigma(static_cast<size_t>(s));
  for (int64_t i = 0; i < s; ++i) {
    const double part = s == 1 ? 0 : static_cast<double>(i) / static_cast<double>(s - 1);
    double value = 0;
    if (name == "one_over_i") value = 1.0 / static_cast<double>(i + 1);
    if (name == "exponential_to_1e-5") value = std::pow(1e-5, part);
    if (name == "tenth_large_and_floor") value = part <= 0.1 ? 1 : 1e-3;
    if (name == "rank_deficient") value = i < (s + 1) / 2 ? 1.0 - 0.5 * part : 0;
    if (name == "outlier_1e4") value = i == 0 ? 1e4 : 1;
    if (name == "tail_1e-10") value = part < 0.7 ? 1 - part : 1e-10;
    if (name == "near_rank_1") value = i == 0 ? 1 : 1e-6;
    if (name == "flat") value = 1;
    sigma[static_cast<size_t>(i)] = value;
  }
  return sigma;
}

Dense FromParts(const Dense& u, const std::vector<double>& sigma, const Dense& v) {
  Dense scaled = u;
  for (int64_t row = 0; row < u.rows; ++row) {
    for (int64_t col = 0; col < u.cols; ++col) scaled(row, col) *= sigma[static_cast<size_t>(col)];
  }
  return Times(scaled, Transposed(v));
}

Dense ToBFloat16(Dense a) {
  for (double& value : a.values)
    value = BFloat16ToFloat(FloatToBFloat16(static_cast<float>(value)));
  return a;
}

}  // namespace

const std::vector<std::string>& ZooNames() {
  static const auto& names = *new std::vector<std::string>{
      "gaussian",       "one_over_i",  "exponential_to_1e-5", "tenth_large_and_floor",
      "rank_deficient", "outlier_1e4", "tail_1e-10",          "near_rank_1",
      "flat",           "zero"};
  return names;
}

ZooMatrix MakeZooMatrix(const std::string& name, int64_t rows, int64_t cols, uint32_t seed) {
  ZooMatrix matrix;
  matrix.name = name;
  if (name == "zero") {
    matrix.x = Dense(rows, cols);
  } else if (name == "gaussian") {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    matrix.x = Dense(rows, cols);
    for (double& value : matrix.x.values) value = normal(random);
  } else {
    const int64_t s = std::min(rows, cols);
    matrix.u = Orthonormal(rows, s, seed);
    matrix.v = Orthonormal(cols, s, seed + 1);
    matrix.spectrum = Spectrum(name, s);
    matrix.x = FromParts(matrix.u, matrix.spectrum, matrix.v);
  }
  for (double& value : matrix.x.values) value = static_cast<float>(value);
  return matrix;
}

Dense SpectralOracle(const ZooMatrix& matrix, const CoefficientTable& table) {
  double norm = 0;
  for (double sigma : matrix.spectrum) norm += sigma * sigma;
  std::vector<double> values = matrix.spectrum;
  for (double& x : values) {
    x /= std::sqrt(norm);
    for (const Coefficients& row : table.steps)
      x = row.a * x + row.b * x * x * x + row.c * std::pow(x, 5);
  }
  return FromParts(matrix.u, values, matrix.v);
}

Dense TorchBFloat16NewtonSchulz(const Dense& input, const CoefficientTable& table, double eps) {
  if (input.rows > input.cols)
    return Transposed(TorchBFloat16NewtonSchulz(Transposed(input), table, eps));
  Dense x = ToBFloat16(input);
  Dense norm(1, 1);
  norm(0, 0) = std::max(Frobenius(x), eps);
  norm = ToBFloat16(norm);
  for (double& value : x.values) value /= norm(0, 0);
  x = ToBFloat16(x);
  for (const Coefficients& row : table.steps) {
    const Dense g = ToBFloat16(Times(x, Transposed(x)));
    Dense u = Times(g, g);
    for (size_t i = 0; i < u.values.size(); ++i)
      u.values[i] = row.b * g.values[i] + row.c * u.values[i];
    u = ToBFloat16(u);
    Dense next = Times(u, x);
    for (size_t i = 0; i < next.values.size(); ++i) next.values[i] += row.a * x.values[i];
    x = ToBFloat16(next);
  }
  return x;
}

}  // namespace muond::testing
