#include "kernels/ops/reference/elements.h"

#include <map>
#include <optional>

#include "kernels/ops/convert.h"

namespace muond::reference {
namespace {

bool Covers(const Block& block, int64_t row, int64_t col) {
  return row >= block.row && row < block.row + block.rows && col >= block.col &&
         col < block.col + block.cols;
}

float ValueIn(const Block& block, int64_t row, int64_t col) {
  return static_cast<float>(
      Load(AddressOf(block), (row - block.row) * block.ld + (col - block.col), block.dtype));
}

// The tree's node over the indices [first, first + width).
std::optional<float> Node(const std::map<int64_t, float>& leaves, int64_t first, int64_t width) {
  if (width == 1) {
    const auto leaf = leaves.find(first);
    return leaf == leaves.end() ? std::nullopt : std::optional<float>(leaf->second);
  }
  const std::optional<float> left = Node(leaves, first, width / 2);
  const std::optional<float> right = Node(leaves, first + width / 2, width / 2);
  if (!left.has_value()) return right;
  if (!right.has_value()) return left;
  return *left + *right;
}

}  // namespace

double Load(const void* data, int64_t index, DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<const float*>(data)[index];
    case DType::kBFloat16:
      return BFloat16ToFloat(static_cast<const uint16_t*>(data)[index]);
    case DType::kFloat16:
      return Float16ToFloat(static_cast<const uint16_t*>(data)[index]);
  }
  __builtin_unreachable();
}

void Store(void* data, int64_t index, DType dtype, double value) {
  const float rounded = static_cast<float>(value);
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[index] = rounded;
      return;
    case DType::kBFloat16:
      static_cast<uint16_t*>(data)[index] = FloatToBFloat16(rounded);
      return;
    case DType::kFloat16:
      static_cast<uint16_t*>(data)[index] = FloatToFloat16(rounded);
      return;
  }
}

float ParameterAt(const std::vector<Block>& blocks, int64_t row, int64_t col) {
  for (const Block& block : blocks) {
    if (Covers(block, row, col)) return ValueIn(block, row, col);
  }
  return 0;
}

float SumOfReplicas(const std::vector<Block>& blocks, int64_t row, int64_t col) {
  std::map<int64_t, float> leaves;
  for (const Block& block : blocks) {
    if (Covers(block, row, col)) leaves[block.replica] = ValueIn(block, row, col);
  }
  if (leaves.empty()) return 0;
  int64_t width = 1;
  while (width <= leaves.rbegin()->first) width *= 2;
  return *Node(leaves, 0, width);
}

}  // namespace muond::reference
