#include "server/gather/item_blocks.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

void SortUnique(std::vector<uint32_t>* values) {
  std::sort(values->begin(), values->end());
  values->erase(std::unique(values->begin(), values->end()), values->end());
}

// A shard's rectangles in the tensor's view.
struct HeldRectangles {
  uint32_t rank = 0, shard = 0;
  std::vector<Rectangle> rectangles;
};

bool Reads(const ShardSpec& shard, const Part& part) {
  return shard.replica_kind == ReplicaKind::kSum || part.provides;
}

}  // namespace

absl::StatusOr<std::vector<ItemParts>> PartsOf(
    const Manifest& manifest, absl::Span<const RankManifest* const> ranks,
    absl::Span<const PlanItem> items,
    absl::FunctionRef<int32_t(int32_t tensor, int32_t replicas)> provider) {
  std::vector<std::vector<HeldRectangles>> of_tensor(manifest.tensors.size());
  for (uint32_t rank = 0; rank < ranks.size(); ++rank) {
    for (uint32_t shard = 0; shard < ranks[rank]->shards.size(); ++shard) {
      const ShardSpec& spec = ranks[rank]->shards[shard];
      auto rectangles = RectanglesOf(manifest.tensors[spec.tensor], spec);
      if (!rectangles.ok()) return rectangles.status();
      if (!rectangles->empty())
        of_tensor[spec.tensor].push_back({rank, shard, *std::move(rectangles)});
    }
  }
  std::vector<ItemParts> result;
  result.reserve(items.size());
  for (const PlanItem& item : items) {
    ItemParts& parts = result.emplace_back();
    for (const Segment& segment : item.segments) {
      const TensorSpec& tensor = manifest.tensors[segment.tensor];
      RunParts& run = parts.runs.emplace_back();
      run.tensor = static_cast<uint32_t>(segment.tensor);
      run.rows = segment.row_end - segment.row_begin;
      run.cols = ViewOf(tensor).cols;
      parts.buckets.push_back(static_cast<uint32_t>(tensor.bucket));
      for (const HeldRectangles& held : of_tensor[segment.tensor]) {
        const ShardSpec& spec = ranks[held.rank]->shards[held.shard];
        for (const Rectangle& rectangle :
             Clip(held.rectangles, segment.row_begin, segment.row_end)) {
          run.parts.push_back({held.rank, held.shard, spec.replica,
                               spec.replica == provider(segment.tensor, spec.replicas), rectangle});
          parts.ranks.push_back(held.rank);
        }
      }
    }
    SortUnique(&parts.ranks);
    SortUnique(&parts.buckets);
  }
  return result;
}

std::vector<ItemSource> SourcesOf(const Manifest& manifest, absl::Span<const ItemParts> items,
                                  absl::Span<const RankManifest* const> ranks) {
  std::vector<ItemSource> sources;
  for (uint32_t item = 0; item < items.size(); ++item) {
    for (const RunParts& run : items[item].runs) {
      const uint32_t bucket = static_cast<uint32_t>(manifest.tensors[run.tensor].bucket);
      for (const Part& part : run.parts) {
        if (Reads(ranks[part.rank]->shards[part.shard], part))
          sources.push_back({item, part.rank, bucket});
      }
    }
  }
  return sources;
}

absl::StatusOr<std::vector<GatheredTensor>> GatheredTensors(
    const Manifest& manifest, absl::Span<const RankManifest* const> ranks) {
  std::vector<GatheredTensor> tensors(manifest.tensors.size());
  for (uint32_t rank = 0; rank < ranks.size(); ++rank) {
    for (uint32_t block = 0; block < ranks[rank]->shards.size(); ++block) {
      const ShardSpec& shard = ranks[rank]->shards[block];
      GatheredTensor& tensor = tensors[shard.tensor];
      tensor.same = shard.replica_kind == ReplicaKind::kSame;
      tensor.divisor = tensor.same ? 1 : shard.divisor;
      tensor.replicas.resize(shard.replicas);
      if (ElementsOf(shard) > 0) tensor.replicas[shard.replica].blocks.push_back({rank, block});
    }
  }
  const auto shard_of = [&ranks](const HeldBlock& held) -> const ShardSpec& {
    return ranks[held.rank]->shards[held.block];
  };
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!tensors[t].same) continue;
    for (ReplicaBlocks& replica : tensors[t].replicas) {
      std::sort(replica.blocks.begin(), replica.blocks.end(),
                [&](const HeldBlock& x, const HeldBlock& y) {
                  return shard_of(x).offset < shard_of(y).offset;
                });
    }
    const ReplicaBlocks& first = tensors[t].replicas.front();
    for (size_t r = 1; r < tensors[t].replicas.size(); ++r) {
      const ReplicaBlocks& other = tensors[t].replicas[r];
      const bool equal =
          std::equal(first.blocks.begin(), first.blocks.end(), other.blocks.begin(),
                     other.blocks.end(), [&](const HeldBlock& x, const HeldBlock& y) {
                       return shard_of(x).offset == shard_of(y).offset &&
                              shard_of(x).extent == shard_of(y).extent;
                     });
      if (!equal) {
        return absl::InvalidArgumentError(
            absl::StrFormat("tensor '%s': equal replicas 0 (%d blocks) and %d (%d blocks) are cut "
                            "differently; their digests are compared "
                            "block by block",
                            manifest.tensors[t].name, first.blocks.size(), r, other.blocks.size()));
      }
    }
  }
  return tensors;
}

}  // namespace muond
