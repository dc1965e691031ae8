// Manifests and shards for tests: short ways to say what a job holds.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "proto/types/manifest.h"

namespace muond::testing {

// One muon group "muon" (0), one adamw group "adamw" (1), no tensors.
inline Manifest EmptyManifest(int32_t world_size, std::string job = "job") {
  Manifest manifest;
  manifest.job = std::move(job);
  manifest.world_size = world_size;
  manifest.groups.resize(2);
  manifest.groups[0].name = "muon";
  manifest.groups[1].name = "adamw";
  manifest.groups[1].rule = Rule::kAdamW;
  manifest.groups[1].table.clear();
  return manifest;
}

inline TensorSpec Tensor(std::string name, std::vector<int64_t> shape, Rule rule = Rule::kMuon,
                         int32_t row_dims = 1) {
  TensorSpec tensor;
  tensor.name = std::move(name);
  tensor.shape = std::move(shape);
  tensor.group = rule == Rule::kMuon ? 0 : 1;
  tensor.row_dims = tensor.shape.empty() ? 0 : row_dims;
  return tensor;
}

inline ShardSpec Shard(int32_t tensor, std::vector<int64_t> offset, std::vector<int64_t> extent) {
  ShardSpec shard;
  shard.tensor = tensor;
  shard.offset = std::move(offset);
  shard.extent = std::move(extent);
  return shard;
}

inline ShardSpec Whole(const Manifest& manifest, int32_t tensor) {
  const std::vector<int64_t>& shape = manifest.tensors[static_cast<size_t>(tensor)].shape;
  return Shard(tensor, std::vector<int64_t>(shape.size(), 0), shape);
}

// Every rank holds everything, as replicas with equal gradients: plain DDP.
inline std::vector<RankManifest> Replicated(const Manifest& manifest) {
  std::vector<RankManifest> ranks;
  for (int32_t r = 0; r < manifest.world_size; ++r) {
    RankManifest& rank = ranks.emplace_back();
    rank.rank = r;
    for (size_t t = 0; t < manifest.tensors.size(); ++t) {
      ShardSpec shard = Whole(manifest, static_cast<int32_t>(t));
      shard.replica = r;
      shard.replicas = manifest.world_size;
      rank.shards.push_back(std::move(shard));
    }
  }
  return ranks;
}

// Rows of dimension 0 cut over the ranks as FSDP2 does: chunks of ceil(rows / ranks), the last ones
// short or empty.
inline std::vector<RankManifest> RowSharded(const Manifest& manifest) {
  std::vector<RankManifest> ranks(static_cast<size_t>(manifest.world_size));
  for (int32_t r = 0; r < manifest.world_size; ++r) {
    RankManifest& rank = ranks[static_cast<size_t>(r)];
    rank.rank = r;
    for (size_t t = 0; t < manifest.tensors.size(); ++t) {
      ShardSpec shard = Whole(manifest, static_cast<int32_t>(t));
      if (!shard.extent.empty()) {
        const int64_t side = shard.extent[0],
                      chunk = (side + manifest.world_size - 1) / manifest.world_size;
        shard.offset[0] = std::min<int64_t>(r * chunk, side);
        shard.extent[0] = std::min<int64_t>(chunk, side - shard.offset[0]);
      } else if (r > 0) {
        continue;
      }
      rank.shards.push_back(std::move(shard));
    }
  }
  return ranks;
}

}  // namespace muond::testing
