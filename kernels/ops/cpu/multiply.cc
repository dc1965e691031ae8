#include "kernels/ops/cpu/multiply.h"

#include <cblas.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <mutex>

namespace muond::cpu {
namespace {

// Below this, a square on the diagonal is computed whole: half of it is waste, but smaller products run slower.
constexpr int64_t kLeaf = 96;

struct View {
  const float* data;
  int64_t ld;
  bool transposed;
  // Rows [row, ...) of op(A), or columns of op(B).
  const float* Row(int64_t row) const { return data + (transposed ? row : row * ld); }
  const float* Col(int64_t col) const { return data + (transposed ? col * ld : col); }
  CBLAS_TRANSPOSE blas() const { return transposed ? CblasTrans : CblasNoTrans; }
};

float* At(const Matrix& m, int64_t row, int64_t col) {
  return static_cast<float*>(m.data) + row * m.ld + col;
}

int Int(int64_t value) {
  assert(value <= INT32_MAX);
  return static_cast<int>(value);
}

struct Job {
  View a, b;
  Matrix d;
  int64_t depth;
  float alpha, beta;
};

void Gemm(const Job& job, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  cblas_sgemm(CblasRowMajor, job.a.blas(), job.b.blas(), Int(rows), Int(cols), Int(job.depth),
              job.alpha, job.a.Row(row), Int(job.a.ld), job.b.Col(col), Int(job.b.ld), job.beta,
              At(job.d, row, col), Int(job.d.ld));
}

// The triangle of `size` rows from `start`: a square below two triangles of half the size.
void LowerTriangle(const Job& job, int64_t start, int64_t size) {
  if (size <= kLeaf) return Gemm(job, start, start, size, size);
  const int64_t top = (size / 2 + kLeaf - 1) / kLeaf * kLeaf;
  LowerTriangle(job, start, top);
  Gemm(job, start + top, start, size - top, top);
  LowerTriangle(job, start + top, size - top);
}

void CopyRows(const Matrix& from, const Matrix& to, bool lower) {
  for (int64_t row = 0; row < to.rows; ++row) {
    const int64_t count = lower ? row + 1 : to.cols;
    std::memcpy(At(to, row, 0), At(from, row, 0), static_cast<size_t>(count) * sizeof(float));
  }
}

// Upper triangle from the lower one, tile by tile.
void Mirror(const Matrix& m) {
  constexpr int64_t kTile = 32;
  for (int64_t r0 = 0; r0 < m.rows; r0 += kTile) {
    for (int64_t c0 = 0; c0 <= r0; c0 += kTile) {
      const int64_t r1 = std::min(r0 + kTile, m.rows);
      for (int64_t row = r0; row < r1; ++row) {
        const int64_t c1 = std::min(c0 + kTile, row);
        for (int64_t col = c0; col < c1; ++col) *At(m, col, row) = *At(m, row, col);
      }
    }
  }
}

void AddDiagonal(const Matrix& m, double value) {
  if (value == 0) return;
  for (int64_t i = 0; i < m.rows; ++i) {
    *At(m, i, i) = static_cast<float>(*At(m, i, i) + value);
  }
}

double Divisor(const Product& product) {
  if (product.alpha_divisor == nullptr) return 1;
  return std::pow(std::max(*product.alpha_divisor, product.divisor_floor), product.divisor_power);
}

bool IsGram(const Product& p) {
  return p.a.data == p.b.data && p.a.ld == p.b.ld && p.a_transposed != p.b_transposed;
}

}  // namespace

void UseOneBlasThread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

void Multiply(const Product& product) {
  const Matrix& d = product.d;
  if (d.rows == 0 || d.cols == 0) return;
  const bool has_c = product.c.data != nullptr && product.beta != 0;
  if (has_c && product.c.data != d.data) CopyRows(product.c, d, product.symmetric);
  const double divisor = Divisor(product);
  const Job job{{static_cast<const float*>(product.a.data), product.a.ld, product.a_transposed},
                {static_cast<const float*>(product.b.data), product.b.ld, product.b_transposed},
                d,
                product.a_transposed ? product.a.rows : product.a.cols,
                static_cast<float>(product.alpha / divisor),
                has_c ? static_cast<float>(product.beta / divisor) : 0.0f};
  if (!product.symmetric) {
    Gemm(job, 0, 0, d.rows, d.cols);
  } else if (IsGram(product)) {
    cblas_ssyrk(CblasRowMajor, CblasLower, job.a.blas(), Int(d.rows), Int(job.depth), job.alpha,
                job.a.data, Int(job.a.ld), job.beta, At(d, 0, 0), Int(d.ld));
  } else {
    LowerTriangle(job, 0, d.rows);
  }
  if (product.symmetric) Mirror(d);
  if (product.d2.data != nullptr) {
    CopyRows(d, product.d2, false);
    AddDiagonal(product.d2, product.diagonal2);
  }
  AddDiagonal(d, product.diagonal);
}

}  // namespace muond::cpu
