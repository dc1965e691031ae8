// The element-wise launches: one each, over a prepared list. Every function enqueues on `stream` of the current
// device and returns the launch's error. `tiles` is the number of CTAs: the sum over the list's items.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops/cuda/task_list.h"

namespace muond::elementwise {

// Each exists for kSmallListBytes and kLargeListBytes.
template <int kBytes>
cudaError_t LaunchMeasure(cudaStream_t stream, const List<kBytes>& list, int tiles, Scratch* scratch);

// `sample` first estimates each matrix's magnitude from 4096 elements at places that its shape fixes: the power of two
// by which a float16 direction is scaled. `correct` then redoes the matrices for which the estimate was wrong (a few
// rows hold everything, say); it looks at flags and ends where there are none.
enum class DirectionPhase { kSample, kMain, kCorrect };
template <int kBytes>
cudaError_t LaunchDirection(cudaStream_t stream, const List<kBytes>& list, int tiles, Scratch* scratch,
                            DirectionPhase phase, int multiprocessors);

template <int kBytes>
cudaError_t LaunchApply(cudaStream_t stream, const List<kBytes>& list, int tiles);
template <int kBytes>
cudaError_t LaunchAdamW(cudaStream_t stream, const List<kBytes>& list, int tiles, Scratch* scratch);
template <int kBytes>
cudaError_t LaunchScatter(cudaStream_t stream, const List<kBytes>& list, int tiles);

// *word = value after a system fence, unless *mark is not zero by then. `mark` may be null.
cudaError_t LaunchFlip(cudaStream_t stream, uint64_t* word, uint64_t value, const uint64_t* mark);

// Writes up to kLargeListBytes host bytes to device memory: they travel as a kernel parameter, so the host memory is
// free when the call returns, and nothing blocks. A multiple of 8 bytes, both ends aligned to 8.
cudaError_t LaunchPut(cudaStream_t stream, void* destination, const void* bytes, int size_bytes);

// Copies the strict lower triangle of each n x n 16-bit or 32-bit matrix onto the upper one.
struct MirrorItem {
  char* data;
  int64_t n, ld;
  int32_t element_bytes;
  int32_t first_tile;  // set by LaunchMirror
};
cudaError_t LaunchMirror(cudaStream_t stream, MirrorItem* items, int count);

// factor[i] = alpha[i] / max(*divisor[i], floor[i])^power[i] as float; a null divisor leaves alpha as it is. factor[count + i] = beta[i].
struct FactorItem {
  const double* divisor;
  double alpha, floor, beta;
  int32_t power;
};
cudaError_t LaunchFactors(cudaStream_t stream, const FactorItem* items, int count, float* factors);

}  // namespace muond::elementwise
