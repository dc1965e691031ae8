// BlockReader: a tensor that lies in blocks, read as one flat row-major run of fp32.
// Element-wise passes walk the whole matrix in runs of kRun elements, in whole-matrix coordinates, so that nothing they
// compute (a norm, say) can depend on how the tensor is cut into blocks.
// Threads: one at a time. The blocks' memory must outlive it. REQUIRES: the blocks of one replica do not overlap.
// Memory: allocates for a tensor in more than kBlocksHere blocks or kReplicasHere replicas only; a thread that sums replicas
// keeps a run for each level of their tree.
#pragma once

#include <cstdint>

#include "absl/container/inlined_vector.h"
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
  static constexpr size_t kBlocksHere = 16;
  static constexpr size_t kReplicasHere = 8;
  // blocks_[first, first + count), sorted by their first row.
  struct Replica {
    int64_t index = 0;
    size_t first = 0, count = 0;
    bool complete = false;  // its blocks, which do not overlap, hold every element
  };
  absl::Span<const Block> BlocksOf(const Replica& replica) const {
    return absl::MakeConstSpan(blocks_).subspan(replica.first, replica.count);
  }
  const float* InPlace(int64_t begin, int64_t count) const;
  void Gather(const Replica& replica, int64_t begin, int64_t count, float* out) const;
  void Sum(absl::Span<const Replica> replicas, int64_t first, int64_t width, int64_t begin,
           int64_t count, float* out, int depth);

  const int64_t cols_;
  absl::InlinedVector<Block, kBlocksHere> blocks_;        // by replica, then by first row
  absl::InlinedVector<Replica, kReplicasHere> replicas_;  // by index
  int64_t tree_width_ = 1;                                // a power of two above the last index
};

// The inverse: elements [begin, begin + count) of a flat run into a matrix with its own ld and dtype.
void WriteRun(const Matrix& matrix, int64_t begin, int64_t count, const float* values);

// Where WriteRun's values may be produced directly, or null: fp32 without padding.
float* DirectRun(const Matrix& matrix, int64_t begin);

}  // namespace muond::cpu
