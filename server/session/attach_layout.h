// AttachLayout: where each block of a rank lies in its two slabs, and which replica of a tensor is read.
// A pure function of manifest and rank manifest, so a successor lays out the same.
// Units: bytes; offsets are multiples of kBlockAlignment; blocks are dense in their own shape.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "proto/types/manifest.h"

namespace muond {

inline constexpr uint64_t kBlockAlignment = 64;

struct BlockLayout {
  uint64_t gradient_offset = 0;
  uint64_t parameter_offset = 0;
  bool push_gradient =
      true;  // false: another replica is read; the block has no room in the gradient slab
};

struct RankLayout {
  std::vector<BlockLayout> blocks;                   // as RankManifest::shards
  uint64_t gradient_bytes = 0, parameter_bytes = 0;  // of the slabs; at least kBlockAlignment
};

// The replica of a tensor whose gradients are read when replicas are equal: they take turns, so that no rank pushes everything.
int32_t ProviderReplica(int32_t tensor, int32_t replicas);

// RESOURCE_EXHAUSTED with the numbers when a slab would pass the limit.
absl::StatusOr<RankLayout> LayRank(
    const Manifest& manifest, const RankManifest& rank,
    absl::FunctionRef<int32_t(int32_t tensor, int32_t replicas)> provider = ProviderReplica);

}  // namespace muond
