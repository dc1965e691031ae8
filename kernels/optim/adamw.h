// AdamW with bias correction and decoupled decay, equal to torch.optim.AdamW within fp32 rounding:
//   p *= 1 - lr wd;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p -= lr/(1-b1^t) * m / (sqrt(v)/sqrt(1-b2^t) + eps).
// The daemon packs tensors into chunks: one chunk is a list of AdamWTask, staged and flipped as one.
#pragma once

#include "absl/types/span.h"
#include "kernels/ops/ops.h"

namespace muond {

inline constexpr int64_t kAdamWChunkElements = 8 << 20;  // 32 MiB of fp32 parameter

}  // namespace muond
