// The element-wise launches: one each, over a prepared list. Every function enqueues on `stream` of the current
// device and returns the launch's error. `tiles` is the number of CTAs: the sum over the list's items.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops/cuda/task_list.h"

namespace muond::elementwise {

// Each exists for kSmallListBytes and kLargeListBytes.
//
// kMain sums into the scratch, kResult writes what was found and clears the scratch.
enum class MeasurePhase { kMain, kResult };
template <int kBytes>
cudaError_t LaunchMeasure(cudaStream_t stream, const List<kBytes>& list, int tiles,
                          Scratch* scratch, MeasurePhase phase, int multiprocessors);

// kSample guesses the powers of two that scale float16 directions; kMain does the pass with them; kNorm adds up its
// tiles; kCorrect casts the matrices again whose guess was wrong: it looks at a flag and ends where there are none.
enum class DirectionPhase { kSample, kMain, kNorm, kCorrect };
template <int kBytes>
cudaError_t LaunchDirection(cudaStream_t stream, const List<kBytes>& list, int tiles,
                            Scratch* scratch, DirectionPhase phase, int multiprocessors);

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

// out[i] = shared, with update_scales[i]; where `lr` or `gradient_scale` is not null, the value that it points to when the
// work runs takes the shared one's place.
cudaError_t LaunchSpreadScalars(cudaStream_t stream, const MuonScalars& shared, const float* lr,
                                const float* gradient_scale, const double* update_scales,
                                int64_t count, MuonScalars* out);

// Copies the strict lower triangle of each n x n 16-bit or 32-bit matrix onto the upper one, and all of it to `second`.
struct MirrorItem {
  char* data;
  int64_t n, ld;
  int32_t element_bytes;
  char* second;  // null: none
  int64_t second_ld;
  int32_t first_tile;  // set by LaunchMirror
};
cudaError_t LaunchMirror(cudaStream_t stream, MirrorItem* items, int count);

// factors[i] = alpha / max(*divisor, floor)^power and factors[count + i] = beta / the same; a null divisor counts as 1.
struct FactorItem {
  const double* divisor;
  double alpha, beta, floor;
  int32_t power;
};
cudaError_t LaunchFactors(cudaStream_t stream, const FactorItem* items, int count, float* factors);

// The diagonal of D in fp32, so that a product with a diagonal of its own is rounded once:
//   sums[i] = alpha (op(A) op(B))[i,i] + beta c[i,i], one warp an entry, before the product (c may be d);
// then, after the product, d[i,i] = sums[i] + diagonal and d2[i,i] = sums[i] + diagonal2.
struct DiagonalItem {
  const char *a, *b, *c;
  char *d, *d2;  // null: not written
  int64_t a_row, a_k, b_k,
      b_col;  // element strides of op(A) along its row and k, of op(B) along k and its column
  int64_t c_ld, d_ld, d2_ld;
  int32_t n, k;
  const float *alpha, *beta;  // device
  float diagonal, diagonal2;
  float* sums;
  DType input, output;
  int32_t first_block;  // set by the launch
};
enum class DiagonalPhase { kSum, kPlace };
cudaError_t LaunchDiagonals(cudaStream_t stream, const DiagonalItem* items, int count,
                            DiagonalPhase phase);

}  // namespace muond::elementwise
