// ItemBlocks: which rectangles of which ranks' blocks make up each run of rows of an item. A pure function of manifest, rank
// manifests and plan: a successor builds the same.
// Units: elements; rows count from the run's first row.   Errors: as proto/types/shards.h, and equal replicas that are cut
// differently, which cannot be compared block by block.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/types/plan.h"
#include "proto/types/shards.h"
#include "server/gather/gatherer.h"
#include "server/gather/verdict.h"

namespace muond {

// A rectangle of one rank's shard within a run.
struct Part {
  uint32_t rank = 0, shard = 0;
  int32_t replica = 0;
  bool provides = false;  // of equal replicas: this is the one that is read
  Rectangle rectangle;
};

struct RunParts {
  uint32_t tensor = 0;
  int64_t rows = 0, cols = 0;
  std::vector<Part> parts;  // of all replicas, by rank
};

struct ItemParts {
  std::vector<RunParts> runs;
  std::vector<uint32_t> ranks;    // that hold a part, rising
  std::vector<uint32_t> buckets;  // of its tensors, rising
};

// `provider(tensor, replicas)` names the equal replica that is read.
absl::StatusOr<std::vector<ItemParts>> PartsOf(
    const Manifest& manifest, absl::Span<const RankManifest* const> ranks,
    absl::Span<const PlanItem> items,
    absl::FunctionRef<int32_t(int32_t tensor, int32_t replicas)> provider);

// The announcements that each item waits for.
std::vector<ItemSource> SourcesOf(const Manifest& manifest, absl::Span<const ItemParts> items,
                                  absl::Span<const RankManifest* const> ranks);

// The tensors as the verdict sees them.
absl::StatusOr<std::vector<GatheredTensor>> GatheredTensors(
    const Manifest& manifest, absl::Span<const RankManifest* const> ranks);

}  // namespace muond
