// D = alpha op(A) op(B) + beta C + diagonal I in fp32 over OpenBLAS, on the calling thread alone.
#pragma once

#include "kernels/ops/ops.h"

namespace muond::cpu {

// Tells OpenBLAS, once for the process, to use the calling thread only: a result must not depend on a thread count.
void UseOneBlasThread();

// All matrices fp32. Symmetric products compute the lower triangle and mirror it.
void Multiply(const Product& product);

}  // namespace muond::cpu
