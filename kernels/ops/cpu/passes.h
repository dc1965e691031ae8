// The inner loops of the element-wise verbs, over runs of at most kRun elements of fp32.
// One source, compiled for several instruction sets and chosen by the processor when it runs. Every path gives the same
// bits: no fused multiply-add, and sums go to a fixed set of lanes.
// Pointers must not overlap except where one is both input and output by name.
#pragma once

#include <cstdint>

#include "kernels/runtime/dtype.h"

namespace muond::cpu {

void ToFloat(const void* source, DType dtype, int64_t count, float* out);
void FromFloat(const float* source, int64_t count, DType dtype, void* out);
void AddInPlace(const float* addend, int64_t count, float* sum);  // sum += addend
void ScaleInPlace(float factor, int64_t count, float* values);
int64_t CountNonFinite(const float* values, int64_t count);

// Coefficients as torch rounds them: computed in double, cast once.
struct DirectionFactors {
  float gradient_scale = 1;
  float to_gradient = 0;    // 1 - mu
  float from_gradient = 0;  // mu
  bool nesterov = true;
};
// g = scale * gradient; m_out = lerp(m_in, g, 1 - mu); direction = nesterov ? lerp(g, m_out, mu) : m_out, with torch's lerp:
// a + w (b - a) for |w| < 0.5, else b - (b - a)(1 - w). `direction` may equal `gradient`, m_out may equal m_in.
void DirectionRun(const DirectionFactors& factors, const float* gradient, const float* momentum_in,
                  int64_t count, float* momentum_out, float* direction);

// The sum of squares of one run in double: element i goes to lane i % 16, lanes are added as a binary tree.
double SumOfSquares(const float* values, int64_t count);

// The exact sum of squares of the finite values of a run, as terms for BinnedSum::AddUnits: at most kSquareTerms.
inline constexpr int kSquareTerms = 24;
struct SquareTerms {
  int64_t units[kSquareTerms];
  int exponents[kSquareTerms];
  int count = 0;
};
void ExactSquares(const float* values, int64_t count, SquareTerms& terms);

// out = decay * parameter - rate * update. `out` may equal `parameter`.
void ApplyRun(float decay, float rate, const float* parameter, const float* update, int64_t count,
              float* out);

struct AdamWFactors {
  float gradient_scale = 1;
  float decay = 1;           // 1 - lr wd
  float to_gradient = 0.1f;  // 1 - beta1
  float beta2 = 0.999f;
  float to_square = 0.001f;   // 1 - beta2
  float root_correction = 1;  // sqrt(1 - beta2^t)
  float eps = 1e-8f;
  float step_size = 0;  // lr / (1 - beta1^t)
};
// `out` may equal `parameter`; *_out may equal *_in.
void AdamWRun(const AdamWFactors& factors, const float* gradient, const float* parameter,
              const float* exp_avg_in, const float* exp_avg_sq_in, int64_t count,
              float* exp_avg_out, float* exp_avg_sq_out, float* out);

}  // namespace muond::cpu
