#include "server/session/attach_layout.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {
uint64_t Align(uint64_t bytes) {
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}
}  // namespace

int32_t ProviderReplica(int32_t tensor, int32_t replicas) { return tensor % replicas; }

absl::StatusOr<RankLayout> LayRank(
    const Manifest& manifest, const RankManifest& rank,
    absl::FunctionRef<int32_t(int32_t tensor, int32_t replicas)> provider) {
  RankLayout layout;
  for (const ShardSpec& shard : rank.shards) {
    const TensorSpec& tensor = manifest.tensors[shard.tensor];
    const uint64_t elements = static_cast<uint64_t>(ElementsOf(shard));
    BlockLayout block;
    block.push_gradient = shard.replica_kind == ReplicaKind::kSum ||
                          shard.replica == provider(shard.tensor, shard.replicas);
    if (block.push_gradient) {
      block.gradient_offset = layout.gradient_bytes;
      layout.gradient_bytes += Align(elements * SizeOf(tensor.gradient_type));
    }
    block.parameter_offset = layout.parameter_bytes;
    layout.parameter_bytes += Align(elements * SizeOf(tensor.parameter_type));
    layout.blocks.push_back(block);
    const uint64_t larger = std::max(layout.gradient_bytes, layout.parameter_bytes);
    if (larger > kSlabBytesMax) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("rank %d: %d bytes up to block %d, a slab has at most %d", rank.rank,
                          larger, layout.blocks.size() - 1, kSlabBytesMax));
    }
  }
  layout.gradient_bytes = std::max(layout.gradient_bytes, kBlockAlignment);
  layout.parameter_bytes = std::max(layout.parameter_bytes, kBlockAlignment);
  return layout;
}

}  // namespace muond
