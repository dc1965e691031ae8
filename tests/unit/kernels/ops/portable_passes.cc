#include "tests/unit/kernels/ops/portable_passes.h"

#define MUOND_CLONES
#define cpu portable_cpu
#include "kernels/ops/cpu/passes.cc"
#undef cpu

namespace muond::testing {

namespace portable = muond::portable_cpu;

void PortableToFloat(const void* source, DType dtype, int64_t count, float* out) {
  portable::ToFloat(source, dtype, count, out);
}

void PortableFromFloat(const float* source, int64_t count, DType dtype, void* out) {
  portable::FromFloat(source, count, dtype, out);
}

void PortableDirection(float scale, float mu, bool nesterov, const float* gradient,
                       const float* momentum, int64_t count, float* momentum_out,
                       float* direction) {
  portable::DirectionRun({scale, 1 - mu, mu, nesterov}, gradient, momentum, count, momentum_out,
                         direction);
}

double PortableSumOfSquares(const float* values, int64_t count) {
  return portable::SumOfSquares(values, count);
}

void PortableApply(float decay, float rate, const float* parameter, const float* update,
                   int64_t count, float* out) {
  portable::ApplyRun(decay, rate, parameter, update, count, out);
}

void PortableAdamW(float step_size, const float* gradient, const float* parameter, const float* m,
                   const float* v, int64_t count, float* m_out, float* v_out, float* out) {
  portable::AdamWFactors factors;
  factors.step_size = step_size;
  portable::AdamWRun(factors, gradient, parameter, m, v, count, m_out, v_out, out);
}

}  // namespace muond::testing
