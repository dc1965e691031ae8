#include "absl/strings/str_format.h"
#include "client/core/client.h"

namespace muond {

absl::StatusOr<uint64_t> StateBytes(const Manifest& manifest, int32_t tensor, StateField field) {
  if (tensor < 0 || static_cast<size_t>(tensor) >= manifest.tensors.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("state of tensor %d was asked for; the job has %d tensors, counted from 0",
                        tensor, manifest.tensors.size()));
  }
  const TensorSpec& spec = manifest.tensors[tensor];
  const Rule rule = manifest.groups[spec.group].rule;
  bool has_field = false;
  switch (field) {
    case StateField::kMomentum:
      has_field = rule == Rule::kMuon;
      break;
    case StateField::kExpAvg:
    case StateField::kExpAvgSq:
    case StateField::kStep:
      has_field = rule == Rule::kAdamW;
      break;
    case StateField::kParameter:
      has_field = true;
      break;
  }
  if (!has_field) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is stepped by %s, which has no state field %d", spec.name,
                        rule == Rule::kMuon ? "muon" : "adamw", static_cast<int>(field)));
  }
  if (field == StateField::kStep) return sizeof(double);
  return static_cast<uint64_t>(ElementsOf(spec)) * sizeof(float);
}

absl::Status CheckStateBytes(const Manifest& manifest, int32_t tensor, StateField field,
                             uint64_t size_bytes) {
  absl::StatusOr<uint64_t> wanted = StateBytes(manifest, tensor, field);
  if (!wanted.ok()) return wanted.status();
  if (*wanted == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("state field %d of %s has %d bytes, %d were given", static_cast<int>(field),
                      manifest.tensors[tensor].name, *wanted, size_bytes));
}

std::vector<StateRun> StateRunsOf(const TensorSpec& tensor, const ShardSpec& shard) {
  std::vector<StateRun> runs;
  const auto elements = static_cast<uint64_t>(ElementsOf(shard));
  if (elements == 0) return runs;
  const size_t dims = tensor.shape.size();
  // Dimensions from `inner` on lie in one stretch: all but its first are whole.
  size_t inner = dims;
  while (inner > 0 && shard.extent[inner - 1] == tensor.shape[inner - 1]) --inner;
  if (inner > 0) --inner;
  std::vector<uint64_t> stride(dims, 1);
  for (size_t d = dims; d-- > 1;)
    stride[d - 1] = stride[d] * static_cast<uint64_t>(tensor.shape[d]);
  uint64_t run_elements = 1, begin = 0;
  for (size_t d = inner; d < dims; ++d) run_elements *= static_cast<uint64_t>(shard.extent[d]);
  for (size_t d = 0; d < dims; ++d) begin += stride[d] * static_cast<uint64_t>(shard.offset[d]);
  std::vector<int64_t> at(inner, 0);
  runs.reserve(elements / run_elements);
  for (uint64_t done = 0; done < elements; done += run_elements) {
    uint64_t first = begin;
    for (size_t d = 0; d < inner; ++d) first += stride[d] * static_cast<uint64_t>(at[d]);
    runs.push_back({first * sizeof(float), done * sizeof(float), run_elements * sizeof(float)});
    for (size_t d = inner; d-- > 0;) {
      if (++at[d] < shard.extent[d]) break;
      at[d] = 0;
    }
  }
  return runs;
}

absl::Status CheckShardStateBytes(const Manifest& manifest, const RankManifest& rank, int32_t shard,
                                  StateField field, uint64_t size_bytes) {
  if (shard < 0 || static_cast<size_t>(shard) >= rank.shards.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("state of block %d was asked for; this rank has %d, counted from 0", shard,
                        rank.shards.size()));
  }
  const ShardSpec& spec = rank.shards[shard];
  if (absl::StatusOr<uint64_t> whole = StateBytes(manifest, spec.tensor, field); !whole.ok()) {
    return whole.status();
  }
  const std::string& name = manifest.tensors[spec.tensor].name;
  if (field == StateField::kStep) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the count of steps of %s is one number, not cut into blocks", name));
  }
  const uint64_t wanted = static_cast<uint64_t>(ElementsOf(spec)) * sizeof(float);
  if (wanted == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("state field %d of the block of %s of shape %s has %d bytes, %d were given",
                      static_cast<int>(field), name, ShapeText(spec.extent), wanted, size_bytes));
}

}  // namespace muond
