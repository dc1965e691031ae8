// What a pass over gradients finds: NaN and Inf, and the exact sum of squares.
#pragma once

#include "kernels/ops/ops.h"

namespace muond::cpu {

void Measure(const MeasureTask& task);

}  // namespace muond::cpu
