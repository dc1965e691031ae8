// Shards: rectangles of tensors, as ranks hold them, seen in the 2-D view in which matrices are
// stepped. Threads: pure functions.   Units: elements, rows and columns.   Errors: INVALID_ARGUMENT
// with names and counts.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/types/manifest.h"
#include "proto/types/plan.h"

namespace muond {

// A rectangle of a tensor's view and where it lies in the shard's own dense, row-major memory.
struct Rectangle {
  int64_t row = 0, col = 0, rows = 0,
          cols = 0;    // in the view (or in a segment, see RectanglesInSegment)
  int64_t offset = 0;  // of its element (0, 0) from the shard's first element
  int64_t ld = 0;      // elements between its rows in the shard
  friend bool operator==(const Rectangle&, const Rectangle&) = default;
};

// The shard as rectangles of the view, in the order of the shard's memory; none for an empty shard.
// One for every shard whose row dimensions after the first partly held one are whole, and likewise
// its column dimensions. INVALID_ARGUMENT beyond kRectanglesPerBlockMax.   REQUIRES: a valid shard
// of the tensor.
absl::StatusOr<std::vector<Rectangle>> RectanglesOf(const TensorSpec& tensor,
                                                    const ShardSpec& shard);

// The parts of `rectangles` within rows [row_begin, row_end) of the view; their rows count from
// row_begin.
std::vector<Rectangle> Clip(absl::Span<const Rectangle> rectangles, int64_t row_begin,
                            int64_t row_end);

// What a shard contributes to an item's segment: RectanglesOf, clipped; none when they do not meet.
absl::StatusOr<std::vector<Rectangle>> RectanglesInSegment(const TensorSpec& tensor,
                                                           const ShardSpec& shard,
                                                           const Segment& segment);

// That the shards of all ranks hold every tensor exactly once per replica, and agree on how many
// replicas there are, of which kind, with which divisor. The error names the tensor, the ranks and
// the element counts. Needs O(n log n) time for shards that can be told apart by straight cuts, as
// those of every framework are. REQUIRES: a valid manifest; each of `ranks` valid.
absl::Status CheckCover(const Manifest& manifest, absl::Span<const RankManifest> ranks);

// Everything about the ranks of a job at once: all ranks 0 .. world_size-1 present exactly once,
// each valid, the blocks within kBlocksPerJobMax in all, and the cover exact.   REQUIRES: a valid
// manifest.
absl::Status CheckRanks(const Manifest& manifest, absl::Span<const RankManifest> ranks);

}  // namespace muond
