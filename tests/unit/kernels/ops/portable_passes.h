// The passes compiled for the plainest instruction set, under names of their own.
#pragma once

#include <cstdint>

#include "kernels/runtime/dtype.h"

namespace muond::testing {

void PortableToFloat(const void* source, DType dtype, int64_t count, float* out);
void PortableFromFloat(const float* source, int64_t count, DType dtype, void* out);
void PortableDirection(float scale, float mu, bool nesterov, const float* gradient,
                       const float* momentum, int64_t count, float* momentum_out, float* direction);
double PortableSumOfSquares(const float* values, int64_t count);
void PortableApply(float decay, float rate, const float* parameter, const float* update,
                   int64_t count, float* out);
// Default AdamWFactors with this step size.
void PortableAdamW(float step_size, const float* gradient, const float* parameter, const float* m,
                   const float* v, int64_t count, float* m_out, float* v_out, float* out);

}  // namespace muond::testing
