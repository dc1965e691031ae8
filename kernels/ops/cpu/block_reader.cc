#include "kernels/ops/cpu/block_reader.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/ops/cpu/passes.h"

namespace muond::cpu {
namespace {

// Sums of subtrees on their way up, a run for each level of the tree. A reader uses them within one Read only, so all
// readers of a thread share them.
thread_local std::vector<float> partial_runs;

const void* Offset(const void* data, int64_t elements, DType dtype) {
  return static_cast<const char*>(data) + elements * static_cast<int64_t>(SizeOf(dtype));
}

bool IsFlat(const Block& block, int64_t cols) {
  return block.cols == cols && (block.ld == cols || block.rows == 1);
}

}  // namespace

BlockReader::BlockReader(absl::Span<const Block> blocks, int64_t rows, int64_t cols,
                         Replicas replicas)
    : cols_(cols) {
  for (const Block& block : blocks) {
    if (block.rows <= 0 || block.cols <= 0 || block.row >= rows || block.col >= cols) continue;
    blocks_.push_back(block);
    blocks_.back().data = const_cast<void*>(AddressOf(block));
    if (replicas == Replicas::kIgnore) blocks_.back().replica = 0;
  }
  const auto before = [](const Block& a, const Block& b) {
    return a.replica != b.replica ? a.replica < b.replica : a.row < b.row;
  };
  if (!std::is_sorted(blocks_.begin(), blocks_.end(), before)) {
    std::sort(blocks_.begin(), blocks_.end(), before);
  }
  for (size_t first = 0; first < blocks_.size(); first += replicas_.back().count) {
    Replica& replica = replicas_.emplace_back();
    replica.index = blocks_[first].replica;
    replica.first = first;
    int64_t held = 0;
    for (size_t i = first; i < blocks_.size() && blocks_[i].replica == replica.index; ++i) {
      const Block& block = blocks_[i];
      held += std::min(block.rows, rows - block.row) * std::min(block.cols, cols - block.col);
      ++replica.count;
    }
    replica.complete = held == rows * cols;
  }
  if (replicas_.size() < 2) return;
  size_t levels = 0;
  for (; tree_width_ <= replicas_.back().index; tree_width_ *= 2) ++levels;
  if (partial_runs.size() < levels * kRun) partial_runs.resize(levels * kRun);
}

const float* BlockReader::Read(int64_t begin, int64_t count, float* scratch) {
  if (replicas_.size() > 1) {
    Sum(replicas_, 0, tree_width_, begin, count, scratch, 0);
    return scratch;
  }
  if (const float* place = InPlace(begin, count)) return place;
  if (replicas_.empty()) {
    std::fill_n(scratch, count, -0.0f);
  } else {
    Gather(replicas_.front(), begin, count, scratch);
  }
  return scratch;
}

const float* BlockReader::InPlace(int64_t begin, int64_t count) const {
  if (replicas_.empty()) return nullptr;
  const absl::Span<const Block> blocks = BlocksOf(replicas_.front());
  auto after = std::upper_bound(blocks.begin(), blocks.end(), begin / cols_,
                                [](int64_t row, const Block& block) { return row < block.row; });
  if (after == blocks.begin()) return nullptr;
  const Block& block = *std::prev(after);
  if (block.dtype != DType::kFloat32 || !IsFlat(block, cols_)) return nullptr;
  const int64_t start = begin - block.row * cols_;
  if (start + count > block.rows * cols_) return nullptr;
  return static_cast<const float*>(block.data) + start;
}

void BlockReader::Gather(const Replica& replica, int64_t begin, int64_t count, float* out) const {
  if (!replica.complete) std::fill_n(out, count, -0.0f);
  const int64_t end = begin + count;
  const int64_t last_row = (end - 1) / cols_;
  for (const Block& block : BlocksOf(replica)) {
    if (block.row > last_row) break;
    if (IsFlat(block, cols_)) {
      const int64_t start = block.row * cols_;
      const int64_t from = std::max(begin, start);
      const int64_t to = std::min(end, start + block.rows * cols_);
      if (from < to)
        ToFloat(Offset(block.data, from - start, block.dtype), block.dtype, to - from,
                out + (from - begin));
      continue;
    }
    const int64_t row_end = std::min(last_row + 1, block.row + block.rows);
    for (int64_t row = std::max(begin / cols_, block.row); row < row_end; ++row) {
      const int64_t start = row * cols_ + block.col;
      const int64_t from = std::max(begin, start);
      const int64_t to = std::min(end, start + std::min(block.cols, cols_ - block.col));
      if (from >= to) continue;
      const int64_t offset = (row - block.row) * block.ld + (from - start);
      ToFloat(Offset(block.data, offset, block.dtype), block.dtype, to - from,
              out + (from - begin));
    }
  }
}

// Node [first, first + width) of the tree. An element that a replica does not cover is -0 there: x + -0 is x, bit for bit.
void BlockReader::Sum(absl::Span<const Replica> replicas, int64_t first, int64_t width,
                      int64_t begin, int64_t count, float* out, int depth) {
  if (replicas.size() == 1) {
    Gather(replicas.front(), begin, count, out);
    return;
  }
  const int64_t middle = first + width / 2;
  const auto split =
      std::partition_point(replicas.begin(), replicas.end(),
                           [middle](const Replica& replica) { return replica.index < middle; });
  const auto left = replicas.first(static_cast<size_t>(split - replicas.begin()));
  const auto right = replicas.subspan(left.size());
  if (right.empty()) return Sum(left, first, width / 2, begin, count, out, depth + 1);
  if (left.empty()) return Sum(right, middle, width / 2, begin, count, out, depth + 1);
  Sum(left, first, width / 2, begin, count, out, depth + 1);
  float* other = partial_runs.data() + static_cast<int64_t>(depth) * kRun;
  Sum(right, middle, width / 2, begin, count, other, depth + 1);
  AddInPlace(other, count, out);
}

void WriteRun(const Matrix& matrix, int64_t begin, int64_t count, const float* values) {
  const int64_t size = static_cast<int64_t>(SizeOf(matrix.dtype));
  char* data = static_cast<char*>(matrix.data);
  if (matrix.ld == matrix.cols) {
    FromFloat(values, count, matrix.dtype, data + begin * size);
    return;
  }
  for (int64_t done = 0; done < count;) {
    const int64_t row = (begin + done) / matrix.cols;
    const int64_t col = (begin + done) % matrix.cols;
    const int64_t length = std::min(count - done, matrix.cols - col);
    FromFloat(values + done, length, matrix.dtype, data + (row * matrix.ld + col) * size);
    done += length;
  }
}

float* DirectRun(const Matrix& matrix, int64_t begin) {
  if (matrix.dtype != DType::kFloat32 || matrix.ld != matrix.cols) return nullptr;
  return static_cast<float*>(matrix.data) + begin;
}

}  // namespace muond::cpu
