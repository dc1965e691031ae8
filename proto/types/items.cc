#include "proto/types/items.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

bool IsAdamW(const Manifest& manifest, const TensorSpec& tensor) {
  return manifest.groups[static_cast<size_t>(tensor.group)].rule == Rule::kAdamW;
}

void AddMatrices(const TensorSpec& tensor, int32_t index, std::vector<PlanItem>* items) {
  const int64_t rows = ViewOf(tensor).rows;
  const std::vector<int64_t> heights =
      tensor.matrix_rows.empty() ? std::vector<int64_t>{rows} : tensor.matrix_rows;
  int64_t begin = 0;
  for (int64_t height : heights) {
    PlanItem item;
    item.rule = Rule::kMuon;
    item.segments.push_back({index, begin, begin + height});
    items->push_back(std::move(item));
    begin += height;
  }
}

// Packs row runs into chunks in the order they come.
class ChunkPacker {
 public:
  ChunkPacker(int64_t chunk_elements, std::vector<PlanItem>* items)
      : limit_(chunk_elements), items_(items) {}

  void Add(const TensorSpec& tensor, int32_t index) {
    const MatrixView view = ViewOf(tensor);
    for (int64_t row = 0; row < view.rows;) {
      int64_t fitting = (limit_ - elements_) / view.cols;
      if (fitting <= 0 && elements_ > 0) {
        Close();
        continue;
      }
      fitting =
          std::clamp<int64_t>(fitting, 1, view.rows - row);  // a row longer than a chunk is a chunk
      chunk_.segments.push_back({index, row, row + fitting});
      elements_ += fitting * view.cols;
      row += fitting;
    }
  }

  void Close() {
    if (elements_ == 0) return;
    chunk_.rule = Rule::kAdamW;
    items_->push_back(std::move(chunk_));
    chunk_ = PlanItem();
    elements_ = 0;
  }

 private:
  const int64_t limit_;
  std::vector<PlanItem>* const items_;
  PlanItem chunk_;
  int64_t elements_ = 0;
};

}  // namespace

int64_t ChunkElements(const Manifest& manifest) {
  int64_t total = 0;
  for (const TensorSpec& tensor : manifest.tensors) {
    if (IsAdamW(manifest, tensor)) total += ElementsOf(tensor);
  }
  return std::clamp<int64_t>(total / 8, int64_t{64} << 10, int64_t{8} << 20);
}

absl::StatusOr<std::vector<PlanItem>> ItemsOf(const Manifest& manifest) {
  int64_t matrices = 0;
  for (const TensorSpec& tensor : manifest.tensors) {
    if (!IsAdamW(manifest, tensor))
      matrices += std::max<int64_t>(1, static_cast<int64_t>(tensor.matrix_rows.size()));
  }
  if (matrices > kItemsMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("manifest: %d muon matrices, the limit is %d items", matrices, kItemsMax));
  }
  std::vector<PlanItem> items;
  items.reserve(static_cast<size_t>(matrices));
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    if (!IsAdamW(manifest, manifest.tensors[t]))
      AddMatrices(manifest.tensors[t], static_cast<int32_t>(t), &items);
  }
  ChunkPacker packer(ChunkElements(manifest), &items);
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    if (IsAdamW(manifest, manifest.tensors[t]))
      packer.Add(manifest.tensors[t], static_cast<int32_t>(t));
  }
  packer.Close();
  // Two neighbouring chunks hold more than ChunkElements together, which is at least an eighth of
  // the AdamW elements or 8 Mi: a job of 2^40 elements has at most 2^18 chunks, bounded before this
  // check.
  if (items.size() > static_cast<size_t>(kItemsMax)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("manifest: %d items, the limit is %d", items.size(), kItemsMax));
  }
  return items;
}

}  // namespace muond
