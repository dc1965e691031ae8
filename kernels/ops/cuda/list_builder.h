// ListBuilder: turns tasks into launches, each with as many items and sources as kernel parameters hold.
// Host code only. Items are added in order; a tensor whose sources are too many for one launch is cut by tiles.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/cuda/task_list.h"

namespace muond::elementwise {

// One source with its replica index, before the list is written.
struct SourceSpec {
  Source source;
  int32_t replica;
};

int TilesOf(int64_t elements);
Extent ExtentOf(int64_t rows, int64_t cols);
Plane PlaneOf(const Matrix& matrix);
// Sorted by replica. INVALID_ARGUMENT when a block leaves the matrix or is larger than 2^31 rows or columns.
absl::StatusOr<std::vector<SourceSpec>> SourcesOf(absl::Span<const Block> blocks, int64_t rows,
                                                  int64_t cols);
// Those that touch the elements of tiles [first, end), with the replica tree's program written into them.
// RESOURCE_EXHAUSTED with the numbers when they are more than one launch can hold.
std::vector<Source> Overlapping(absl::Span<const SourceSpec> sources, const Extent& extent,
                                int first_tile, int end_tile, SourceRange* range);

// One launch.
struct Launch {
  std::vector<char> items;
  std::vector<Source> sources;
  int count = 0, tiles = 0;
  bool plain = true;
};

template <class Item>
class ListBuilder {
 public:
  // Adds all tiles of `item`; `ranges` says where its sources go: one SourceRange member for each of `sources`.
  absl::Status Add(const Item& item, int tiles, absl::Span<const std::vector<SourceSpec>> sources,
                   absl::Span<SourceRange Item::*const> ranges) {
    tiles_ = tiles;
    return AddTiles(item, 0, tiles, sources, ranges);
  }
  std::vector<Launch> Take() { return std::move(launches_); }

 private:
  absl::Status AddTiles(const Item& item, int first, int end,
                        absl::Span<const std::vector<SourceSpec>> sources,
                        absl::Span<SourceRange Item::*const> ranges) {
    if (first == end) return absl::OkStatus();
    Item piece = item;
    std::vector<Source> all;
    for (size_t i = 0; i < sources.size(); ++i) {
      SourceRange& range = piece.*ranges[i];
      const std::vector<Source> some = Overlapping(sources[i], item.extent, first, end, &range);
      range.first = static_cast<uint16_t>(all.size());
      range.count = static_cast<uint16_t>(std::min<size_t>(some.size(), UINT16_MAX));
      all.insert(all.end(), some.begin(), some.end());
    }
    if (all.size() > kMaxSources) {
      if (end - first == 1) {
        return absl::ResourceExhaustedError("one tile of " + std::to_string(kTileElements) +
                                            " elements has " + std::to_string(all.size()) +
                                            " source blocks, " + std::to_string(kMaxSources) +
                                            " is the limit");
      }
      const int middle = first + (end - first) / 2;
      absl::Status status = AddTiles(item, first, middle, sources, ranges);
      return status.ok() ? AddTiles(item, middle, end, sources, ranges) : status;
    }
    const size_t more = sizeof(Item) + all.size() * sizeof(Source);
    if (launches_.empty() || Bytes(launches_.back()) + more > kLargeListBytes ||
        launches_.back().tiles > INT32_MAX - (end - first)) {
      launches_.emplace_back();
    }
    Launch& launch = launches_.back();
    piece.extent.first_tile = first;
    piece.extent.launch_tile = launch.tiles;
    piece.extent.is_piece = end - first != tiles_;
    for (SourceRange Item::*range : ranges)
      (piece.*range).first += static_cast<uint16_t>(launch.sources.size());
    const size_t at = launch.items.size();
    launch.items.resize(at + sizeof(Item));
    std::memcpy(launch.items.data() + at, &piece, sizeof(Item));
    launch.sources.insert(launch.sources.end(), all.begin(), all.end());
    launch.tiles += end - first;
    ++launch.count;
    if constexpr (requires { piece.plain; }) launch.plain &= piece.plain;
    return absl::OkStatus();
  }

  static size_t Bytes(const Launch& launch) {
    return launch.items.size() + launch.sources.size() * sizeof(Source);
  }

  std::vector<Launch> launches_;
  int tiles_ = 0;  // of the item being added
};

// Calls `run` with the launch's list in the smaller of the two sizes that holds it.
template <class Run>
auto WithList(const Launch& launch, Run run) {
  auto fill = [&launch](auto& list) {
    list.items = launch.count;
    list.plain = launch.plain;
    list.sources_at = static_cast<int32_t>(launch.items.size());
    std::memcpy(list.data, launch.items.data(), launch.items.size());
    std::memcpy(list.data + launch.items.size(), launch.sources.data(),
                launch.sources.size() * sizeof(Source));
  };
  if (launch.items.size() + launch.sources.size() * sizeof(Source) <= kSmallListBytes) {
    List<kSmallListBytes> list;
    fill(list);
    return run(list);
  }
  List<kLargeListBytes> list;
  fill(list);
  return run(list);
}

}  // namespace muond::elementwise
