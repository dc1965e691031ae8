#include "kernels/ops/cuda/list_builder.h"

#include <bit>
#include <cstdint>

#include "absl/strings/str_format.h"

namespace muond::elementwise {
namespace {

// Whether every group of four elements that starts at a multiple of four of `step` elements can be moved at once.
bool Aligned(const void* data, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % (kVector * SizeOf(dtype)) == 0;
}

// The level at which two leaves of the replica tree meet.
int MeetingLevel(int32_t a, int32_t b) {
  return std::bit_width(static_cast<uint32_t>(a) ^ static_cast<uint32_t>(b));
}

bool Touches(const Source& source, const Extent& extent, int64_t begin, int64_t end) {
  if (source.is_flat) return source.flat.begin < end && source.flat.end > begin;
  const int64_t first_row = begin / extent.cols, last_row = (end - 1) / extent.cols;
  return source.rect.row <= last_row && int64_t{source.rect.row} + source.rect.rows > first_row;
}

}  // namespace

int TilesOf(int64_t elements) {
  return static_cast<int>((elements + kTileElements - 1) / kTileElements);
}

Extent ExtentOf(int64_t rows, int64_t cols) { return {rows * cols, cols, 0, 0, false}; }

Plane PlaneOf(const Matrix& matrix) {
  const bool flat = matrix.ld == matrix.cols || matrix.rows == 1;
  const bool aligned = Aligned(matrix.data, matrix.dtype) &&
                       (flat || (matrix.cols % kVector == 0 && matrix.ld % kVector == 0));
  return {static_cast<char*>(matrix.data), flat ? matrix.cols : matrix.ld, matrix.dtype, flat,
          aligned};
}

absl::StatusOr<std::vector<SourceSpec>> SourcesOf(absl::Span<const Block> blocks, int64_t rows,
                                                  int64_t cols) {
  std::vector<SourceSpec> specs;
  specs.reserve(blocks.size());
  for (const Block& block : blocks) {
    if (block.rows == 0 || block.cols == 0) continue;
    if (block.row < 0 || block.col < 0 || block.rows < 0 || block.cols < 0 ||
        block.row > rows - block.rows || block.col > cols - block.cols || rows > INT32_MAX ||
        cols > INT32_MAX || block.replica < 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("block of %d x %d at (%d, %d), replica %d, of a %d x %d matrix",
                          block.rows, block.cols, block.row, block.col, block.replica, rows, cols));
    }
    SourceSpec spec = {};
    Source& source = spec.source;
    spec.replica = block.replica;
    source.dtype = block.dtype;
    source.base = block.base;
    source.is_flat = block.cols == cols && (block.ld == cols || block.rows == 1);
    const int64_t element_bytes = static_cast<int64_t>(SizeOf(block.dtype));
    if (source.is_flat) {
      source.flat.begin = block.row * cols;
      source.flat.end = (block.row + block.rows) * cols;
      source.data =
          reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(block.data) -
                                        static_cast<uintptr_t>(source.flat.begin * element_bytes));
      source.aligned = Aligned(source.data, block.dtype);
    } else {
      source.rect = {static_cast<int32_t>(block.row), static_cast<int32_t>(block.col),
                     static_cast<int32_t>(block.rows), static_cast<int32_t>(block.cols)};
      source.data = static_cast<const char*>(block.data);
      source.ld = block.ld;
      // A group starts at a column that is a multiple of four when the matrix has whole groups in a row.
      source.aligned = Aligned(block.data, block.dtype) && cols % kVector == 0 &&
                       block.col % kVector == 0 && block.ld % kVector == 0;
    }
    specs.push_back(spec);
  }
  std::stable_sort(specs.begin(), specs.end(),
                   [](const SourceSpec& a, const SourceSpec& b) { return a.replica < b.replica; });
  return specs;
}

std::vector<Source> Overlapping(absl::Span<const SourceSpec> sources, const Extent& extent,
                                int first_tile, int end_tile, SourceRange* range) {
  const int64_t begin = int64_t{first_tile} * kTileElements;
  const int64_t end = std::min(extent.elements, int64_t{end_tile} * kTileElements);
  std::vector<Source> found;
  std::vector<int> levels;  // of each pair of neighbours on the kernel's stack
  int32_t replica = -1;
  range->replicas = 0;
  range->in_order = true;
  for (const SourceSpec& spec : sources) {
    if (!Touches(spec.source, extent, begin, end)) continue;
    int merges = 0;
    if (spec.replica != replica) {
      if (!found.empty()) {
        found.back().ends_replica = true;
        const int level = MeetingLevel(replica, spec.replica);
        while (!levels.empty() && levels.back() < level) {
          levels.pop_back();
          ++merges;
        }
        levels.push_back(level);
      }
      replica = spec.replica;
      range->in_order &= replica == range->replicas;
      ++range->replicas;
    } else {
      merges = found.back().merges;  // the kernel reads it at the replica's last source
    }
    found.push_back(spec.source);
    found.back().ends_replica = false;
    found.back().merges = static_cast<uint8_t>(merges);
  }
  if (!found.empty()) found.back().ends_replica = true;
  return found;
}

}  // namespace muond::elementwise
