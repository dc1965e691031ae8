// The length of the runs in which element-wise passes walk a matrix.
#pragma once

#include <cstdint>

namespace muond::cpu {

inline constexpr int64_t kRun = 2048;  // 8 KiB of fp32: a pass's four or five runs stay in L1

}  // namespace muond::cpu
