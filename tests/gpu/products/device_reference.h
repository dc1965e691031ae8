// Plain matrix products on the device in chosen precisions: what the tests compare with.
#pragma once

#include <cstdint>

namespace muond::test {

// Row-major, dense (ld = cols). D [m, n] = alpha op(A) op(B) + beta C. `c` may be null or `d`.
// Doubles throughout: the exact polynomial, for all that 16 bits can tell.
void ProductInDouble(double* d, const double* a, const double* b, const double* c, int m, int n,
                     int k, bool a_transposed, bool b_transposed, double alpha, double beta);
// bfloat16 operands, fp32 accumulation in order of k, one rounding to bfloat16: torch's path.
void ProductInBFloat16(uint16_t* d, const uint16_t* a, const uint16_t* b, const uint16_t* c, int m,
                       int n, int k, bool a_transposed, bool b_transposed, double alpha,
                       double beta);

}  // namespace muond::test
