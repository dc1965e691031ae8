// BlockReader: a tensor that lies in blocks, read as one flat row-major run of fp32.
// Element-wise passes walk the whole matrix in runs of kRun elements, in whole-matrix coordinates, so that nothing they
// compute (a norm, say) can depend on how the tensor is cut into blocks.
// Threads: one at a time. The blocks' memory must outlive it. REQUIRES: the blocks of one replica do not overlap.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops/cpu/run.h"
#include "kernels/ops/ops.h"

namespace muond::cpu {

class BlockReader {
 public:
  enum class Replicas { kSum, kIgnore };
  BlockReader(absl::Span<const Block> blocks, int64_t rows, int64_t cols, Replicas replicas);

  // Elements [begin, begin + count) of the flat matrix, count <= kRun: in `scratch` (kRun floats), or where they already lie.
  // Elements that no block covers are -0.
  const float* Read(int64_t begin, int64_t count, float* scratch);

 private:
  // A replica's blocks, sorted by their first row.
  struct Replica {
    int64_t index = 0;
    std::vector<Block> blocks;
    bool complete = false;  // its blocks, which do not overlap, hold every element
  };
  const float* InPlace(int64_t begin, int64_t count) const;
  void Gather(const Replica& replica, int64_t begin, int64_t count, float* out) const;
  void Sum(absl::Span<const Replica> replicas, int64_t first, int64_t width, int64_t begin,
           int64_t count, float* out, int depth);

  const int64_t cols_;
  std::vector<Replica> replicas_;            // by index
  int64_t tree_width_ = 1;                   // a power of two above the last index
  std::vector<std::vector<float>> partial_;  // one run for each level of the tree
};

// The inverse: elements [begin, begin + count) of a flat run into a matrix with its own ld and dtype.
void WriteRun(const Matrix& matrix, int64_t begin, int64_t count, const float* values);

// Where WriteRun's values may be produced directly, or null: fp32 without padding.
float* DirectRun(const Matrix& matrix, int64_t begin);

}  // namespace muond::cpu
