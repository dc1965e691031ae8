#include "proto/types/shards.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;

struct Run {
  int64_t begin, size;
};

// A product of ranges of dimensions [from, to), as runs of the flattened index, in order. Runs have
// equal sizes.
void FlattenRuns(const TensorSpec& tensor, const ShardSpec& shard, size_t from, size_t to,
                 std::vector<Run>* runs) {
  // Trailing whole dimensions and the first partial one before them form one run; the dimensions
  // before enumerate.
  size_t split = to;
  int64_t inner = 1;
  while (split > from && shard.extent[split - 1] == tensor.shape[split - 1])
    inner *= tensor.shape[--split];
  int64_t begin = 0, size = inner, stride = inner;
  if (split > from) {
    --split;
    begin = shard.offset[split] * inner;
    size = shard.extent[split] * inner;
    stride = tensor.shape[split] * inner;
  }
  runs->assign(1, {begin, size});
  for (size_t d = split; d > from; --d) {
    const int64_t first = shard.offset[d - 1], count = shard.extent[d - 1];
    std::vector<Run> outer;
    outer.reserve(runs->size() * static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) {
      for (const Run& run : *runs) outer.push_back({run.begin + (first + i) * stride, run.size});
    }
    *runs = std::move(outer);
    stride *= tensor.shape[d - 1];
  }
}

int64_t CountRuns(const TensorSpec& tensor, const ShardSpec& shard, size_t from, size_t to) {
  size_t split = to;
  while (split > from && shard.extent[split - 1] == tensor.shape[split - 1]) --split;
  if (split > from) --split;
  int64_t runs = 1;
  for (size_t d = from; d < split; ++d) {
    if (shard.extent[d] > kRectanglesPerBlockMax / runs) return kRectanglesPerBlockMax + 1;
    runs *= shard.extent[d];
  }
  return runs;
}

// One shard of one replica of one tensor.
struct Held {
  const ShardSpec* shard;
  int32_t rank;
};

int64_t EndOf(const ShardSpec& shard, size_t d) { return shard.offset[d] + shard.extent[d]; }

int64_t OverlapOf(const ShardSpec& a, const ShardSpec& b) {
  int64_t elements = 1;
  for (size_t d = 0; d < a.offset.size(); ++d) {
    const int64_t common = std::min(EndOf(a, d), EndOf(b, d)) - std::max(a.offset[d], b.offset[d]);
    if (common <= 0) return 0;
    elements *= common;
  }
  return elements;
}

// Finds two overlapping shards in held[from, to), which straight cuts cannot separate: sweep along
// dimension 0.
bool SweepForOverlap(std::vector<Held>& held, size_t from, size_t to, Held* a, Held* b) {
  const auto at = [&](size_t i) { return held.begin() + static_cast<std::ptrdiff_t>(i); };
  std::sort(at(from), at(to),
            [](const Held& x, const Held& y) { return x.shard->offset[0] < y.shard->offset[0]; });
  std::vector<size_t> open;
  for (size_t i = from; i < to; ++i) {
    const int64_t begin = held[i].shard->offset[0];
    std::erase_if(open, [&](size_t j) { return EndOf(*held[j].shard, 0) <= begin; });
    for (size_t j : open) {
      if (OverlapOf(*held[j].shard, *held[i].shard) > 0) {
        *a = held[j];
        *b = held[i];
        return true;
      }
    }
    open.push_back(i);
  }
  return false;
}

// A group of shards that planes of the other dimensions have parted from the rest already.
struct Group {
  size_t from, to;
  size_t d;      // the dimension to cut next
  size_t uncut;  // dimensions in a row without a cut
};

// Cuts by planes that no shard crosses, dimension after dimension, until single shards are left. A
// worklist, not a recursion: a peer chooses how deep the cuts nest.
bool FindOverlap(std::vector<Held>& held, size_t dims, Held* a, Held* b) {
  if (held.size() < 2) return false;
  if (dims == 0) {
    *a = held[0];
    *b = held[1];
    return true;
  }
  std::vector<Group> work = {{0, held.size(), 0, 0}};
  while (!work.empty()) {
    const Group group = work.back();
    work.pop_back();
    if (group.uncut ==
        dims) {  // overlapping shards end here; so do pinwheels, which the sweep clears
      if (SweepForOverlap(held, group.from, group.to, a, b)) return true;
      continue;
    }
    const size_t d = group.d, next = (d + 1) % dims;
    std::sort(
        held.begin() + static_cast<std::ptrdiff_t>(group.from),
        held.begin() + static_cast<std::ptrdiff_t>(group.to),
        [d](const Held& x, const Held& y) { return x.shard->offset[d] < y.shard->offset[d]; });
    size_t begin = group.from;
    int64_t reach = EndOf(*held[begin].shard, d);
    for (size_t i = group.from + 1; i < group.to; ++i) {
      if (held[i].shard->offset[d] >= reach) {
        if (i - begin > 1) work.push_back({begin, i, next, 1});
        begin = i;
      }
      reach = std::max(reach, EndOf(*held[i].shard, d));
    }
    if (group.to - begin > 1)
      work.push_back({begin, group.to, next, begin > group.from ? 1 : group.uncut + 1});
  }
  return false;
}

std::string RanksText(absl::Span<const Held> held) {
  std::vector<int32_t> ranks;
  for (const Held& one : held) ranks.push_back(one.rank);
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  const size_t shown = std::min<size_t>(ranks.size(), 8);
  std::string text =
      absl::StrJoin(ranks.begin(), ranks.begin() + static_cast<std::ptrdiff_t>(shown), ", ");
  if (shown < ranks.size()) absl::StrAppend(&text, " and ", ranks.size() - shown, " more");
  return ranks.empty() ? "no rank" : absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ", text);
}

absl::Status CheckReplica(const TensorSpec& tensor, int32_t replica, int32_t replicas,
                          std::vector<Held>& held) {
  const std::string who =
      replicas == 1 ? StrFormat("tensor '%s'", tensor.name)
                    : StrFormat("tensor '%s', replica %d of %d", tensor.name, replica, replicas);
  Held a{}, b{};
  if (FindOverlap(held, tensor.shape.size(), &a, &b)) {
    return InvalidArgumentError(StrFormat(
        "%s: shards of rank %d (offset %s, extent %s) and rank %d (offset %s, extent %s) overlap "
        "in %d elements",
        who, a.rank, ShapeText(a.shard->offset), ShapeText(a.shard->extent), b.rank,
        ShapeText(b.shard->offset), ShapeText(b.shard->extent), OverlapOf(*a.shard, *b.shard)));
  }
  int64_t covered = 0;
  for (const Held& one : held) covered += ElementsOf(*one.shard);
  const int64_t elements = ElementsOf(tensor);
  if (covered != elements) {
    return InvalidArgumentError(StrFormat("%s: %s hold %d of %d elements, %d are missing", who,
                                          RanksText(held), covered, elements, elements - covered));
  }
  return absl::OkStatus();
}

absl::Status CheckTensorCover(const TensorSpec& tensor, std::vector<Held>& all) {
  if (all.empty()) {
    return InvalidArgumentError(
        StrFormat("tensor '%s': no rank holds a shard, %d elements are missing", tensor.name,
                  ElementsOf(tensor)));
  }
  const Held first = all[0];
  for (const Held& one : all) {
    const ShardSpec &x = *first.shard, &y = *one.shard;
    if (x.replicas != y.replicas || x.replica_kind != y.replica_kind ||
        (x.replica_kind == ReplicaKind::kSum && x.divisor != y.divisor)) {
      return InvalidArgumentError(
          StrFormat("tensor '%s': rank %d speaks of %d replicas (kind %d, divisor %g), rank %d of "
                    "%d (kind %d, divisor %g)",
                    tensor.name, first.rank, x.replicas, static_cast<int>(x.replica_kind),
                    x.divisor, one.rank, y.replicas, static_cast<int>(y.replica_kind), y.divisor));
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Held& x, const Held& y) {
    return x.shard->replica < y.shard->replica;
  });
  const int32_t replicas = first.shard->replicas;
  size_t at = 0;
  for (int32_t replica = 0; replica < replicas; ++replica) {
    std::vector<Held> held;
    for (; at < all.size() && all[at].shard->replica == replica; ++at) {
      if (ElementsOf(*all[at].shard) > 0) held.push_back(all[at]);
    }
    if (absl::Status status = CheckReplica(tensor, replica, replicas, held); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Rectangle>> RectanglesOf(const TensorSpec& tensor,
                                                    const ShardSpec& shard) {
  if (ElementsOf(shard) == 0) return std::vector<Rectangle>();
  const size_t row_dims = static_cast<size_t>(tensor.row_dims), dims = tensor.shape.size();
  const int64_t row_runs = CountRuns(tensor, shard, 0, row_dims),
                col_runs = CountRuns(tensor, shard, row_dims, dims);
  if (row_runs > kRectanglesPerBlockMax / col_runs) {
    return InvalidArgumentError(
        StrFormat("tensor '%s' of shape %s: a shard of offset %s and extent %s falls into more "
                  "than %d rectangles",
                  tensor.name, ShapeText(tensor.shape), ShapeText(shard.offset),
                  ShapeText(shard.extent), kRectanglesPerBlockMax));
  }
  std::vector<Run> rows, cols;
  FlattenRuns(tensor, shard, 0, row_dims, &rows);
  FlattenRuns(tensor, shard, row_dims, dims, &cols);
  const int64_t ld = static_cast<int64_t>(cols.size()) * cols[0].size;
  std::vector<Rectangle> rectangles;
  rectangles.reserve(rows.size() * cols.size());
  int64_t offset = 0;
  for (const Run& row : rows) {
    for (size_t c = 0; c < cols.size(); ++c) {
      rectangles.push_back({row.begin, cols[c].begin, row.size, cols[c].size,
                            offset + static_cast<int64_t>(c) * cols[c].size, ld});
    }
    offset += row.size * ld;
  }
  return rectangles;
}

std::vector<Rectangle> Clip(absl::Span<const Rectangle> rectangles, int64_t row_begin,
                            int64_t row_end) {
  std::vector<Rectangle> parts;
  for (const Rectangle& whole : rectangles) {
    const int64_t begin = std::max(whole.row, row_begin),
                  end = std::min(whole.row + whole.rows, row_end);
    if (begin >= end) continue;
    parts.push_back({begin - row_begin, whole.col, end - begin, whole.cols,
                     whole.offset + (begin - whole.row) * whole.ld, whole.ld});
  }
  return parts;
}

absl::StatusOr<std::vector<Rectangle>> RectanglesInSegment(const TensorSpec& tensor,
                                                           const ShardSpec& shard,
                                                           const Segment& segment) {
  absl::StatusOr<std::vector<Rectangle>> all = RectanglesOf(tensor, shard);
  if (!all.ok()) return all.status();
  return Clip(*all, segment.row_begin, segment.row_end);
}

absl::Status CheckCover(const Manifest& manifest, absl::Span<const RankManifest> ranks) {
  // Counting sort by tensor: two passes, one allocation.
  std::vector<size_t> first(manifest.tensors.size() + 1, 0);
  for (const RankManifest& rank : ranks) {
    for (const ShardSpec& shard : rank.shards) ++first[static_cast<size_t>(shard.tensor) + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<Held> held(first.back());
  std::vector<size_t> next(first.begin(), first.end() - 1);
  for (const RankManifest& rank : ranks) {
    for (const ShardSpec& shard : rank.shards)
      held[next[static_cast<size_t>(shard.tensor)]++] = {&shard, rank.rank};
  }
  std::vector<Held> of_tensor;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    of_tensor.assign(held.begin() + static_cast<std::ptrdiff_t>(first[t]),
                     held.begin() + static_cast<std::ptrdiff_t>(first[t + 1]));
    if (absl::Status status = CheckTensorCover(manifest.tensors[t], of_tensor); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

absl::Status CheckRanks(const Manifest& manifest, absl::Span<const RankManifest> ranks) {
  if (ranks.size() != static_cast<size_t>(manifest.world_size)) {
    return InvalidArgumentError(StrFormat("job '%s': %d ranks given, world_size is %d",
                                          manifest.job, ranks.size(), manifest.world_size));
  }
  std::vector<bool> seen(ranks.size(), false);
  int64_t blocks = 0;
  for (const RankManifest& rank : ranks) {
    if (absl::Status status = Validate(manifest, rank); !status.ok()) return status;
    if (seen[static_cast<size_t>(rank.rank)]) {
      return InvalidArgumentError(
          StrFormat("job '%s': rank %d is given twice", manifest.job, rank.rank));
    }
    seen[static_cast<size_t>(rank.rank)] = true;
    blocks += static_cast<int64_t>(rank.shards.size());
    if (blocks > kBlocksPerJobMax) {
      return InvalidArgumentError(StrFormat("job '%s': more than %d blocks by rank %d",
                                            manifest.job, kBlocksPerJobMax, rank.rank));
    }
  }
  return CheckCover(manifest, ranks);
}

}  // namespace muond
