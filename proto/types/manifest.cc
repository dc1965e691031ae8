#include "proto/types/manifest.h"

#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;

// Names travel into logs and error texts: the first bytes of them are enough there.
std::string Short(const std::string& name) {
  return name.size() <= 80 ? name : name.substr(0, 77) + "...";
}

absl::Status CheckCount(const std::string& what, int64_t count, int64_t least, int64_t most) {
  if (count >= least && count <= most) return absl::OkStatus();
  return InvalidArgumentError(StrFormat("%s: %d, allowed are %d to %d", what, count, least, most));
}

bool IsKnown(DType type) {
  return type == DType::kFloat32 || type == DType::kBFloat16 || type == DType::kFloat16;
}

absl::Status CheckGroup(const GroupSpec& group, size_t index) {
  const std::string who = StrFormat("group %d '%s'", index, Short(group.name));
  if (absl::Status status =
          CheckCount(who + ": bytes of its name", static_cast<int64_t>(group.name.size()), 0,
                     kGroupNameBytesMax);
      !status.ok()) {
    return status;
  }
  if (group.rule != Rule::kMuon && group.rule != Rule::kAdamW) {
    return InvalidArgumentError(
        StrFormat("%s: unknown rule %d", who, static_cast<int>(group.rule)));
  }
  if (group.rule == Rule::kAdamW) {
    if (!group.custom_steps.empty() || group.steps != 0) {
      return InvalidArgumentError(who + ": Newton-Schulz steps given for an adamw group");
    }
    return absl::OkStatus();
  }
  if (absl::Status status =
          CheckCount(who + ": Newton-Schulz steps", group.steps, 0, kNewtonSchulzStepsMax);
      !status.ok()) {
    return status;
  }
  const auto scale = static_cast<int>(group.update_scale);
  if (scale < static_cast<int>(UpdateScale::kOriginal) ||
      scale > static_cast<int>(UpdateScale::kNone)) {
    return InvalidArgumentError(StrFormat("%s: unknown update scale %d", who, scale));
  }
  const bool custom = group.table == "custom";
  if (custom == group.custom_steps.empty()) {
    return InvalidArgumentError(StrFormat("%s: table '%s' with %d custom steps", who,
                                          Short(group.table), group.custom_steps.size()));
  }
  if (absl::Status status =
          CheckCount(who + ": custom steps", static_cast<int64_t>(group.custom_steps.size()), 0,
                     kNewtonSchulzStepsMax);
      !status.ok()) {
    return status;
  }
  for (const Coefficients& row : group.custom_steps) {
    if (!std::isfinite(row.a) || !std::isfinite(row.b) || !std::isfinite(row.c)) {
      return InvalidArgumentError(who + ": a coefficient is not finite");
    }
  }
  if (group.table.empty() || group.table.size() > static_cast<size_t>(kGroupNameBytesMax)) {
    return InvalidArgumentError(
        StrFormat("%s: a muon group needs a table's name of 1 to %d bytes, got %d", who,
                  kGroupNameBytesMax, group.table.size()));
  }
  return absl::OkStatus();
}

absl::Status CheckMatrixRows(const std::string& who, const TensorSpec& tensor,
                             const GroupSpec& group) {
  if (tensor.matrix_rows.empty()) return absl::OkStatus();
  if (group.rule != Rule::kMuon)
    return InvalidArgumentError(who + ": matrix_rows outside a muon group");
  const int64_t rows = ViewOf(tensor).rows;
  int64_t sum = 0;
  for (int64_t height : tensor.matrix_rows) {
    if (height < 1 || height > rows - sum) {
      return InvalidArgumentError(
          StrFormat("%s: matrix_rows holds %d with %d of the view's %d rows left", who, height,
                    rows - sum, rows));
    }
    sum += height;
  }
  if (sum != rows) {
    return InvalidArgumentError(
        StrFormat("%s: matrix_rows sum to %d, the view has %d rows", who, sum, rows));
  }
  return absl::OkStatus();
}

absl::Status CheckTensor(const Manifest& manifest, size_t index, int64_t* elements) {
  const TensorSpec& tensor = manifest.tensors[index];
  const std::string who = StrFormat("tensor %d '%s'", index, Short(tensor.name));
  for (absl::Status status :
       {CheckCount(who + ": bytes of its name", static_cast<int64_t>(tensor.name.size()), 1,
                   kTensorNameBytesMax),
        CheckCount(who + ": dimensions", static_cast<int64_t>(tensor.shape.size()), 0, kDimsMax),
        CheckCount(who + ": row_dims", tensor.row_dims, 0,
                   static_cast<int64_t>(tensor.shape.size())),
        CheckCount(who + ": group", tensor.group, 0,
                   static_cast<int64_t>(manifest.groups.size()) - 1),
        CheckCount(who + ": bucket", tensor.bucket, 0, int64_t{manifest.buckets} - 1),
        CheckCount(who + ": matrices", static_cast<int64_t>(tensor.matrix_rows.size()), 0,
                   kMatricesPerTensorMax)}) {
    if (!status.ok()) return status;
  }
  for (int64_t extent : tensor.shape) {
    if (extent < 1) {
      return InvalidArgumentError(
          StrFormat("%s: shape %s has a dimension of %d", who, ShapeText(tensor.shape), extent));
    }
  }
  if (!MultiplyWithin(tensor.shape, kTensorElementsMax, elements)) {
    return InvalidArgumentError(
        StrFormat("%s: shape %s has more than %d elements, the limit of one tensor", who,
                  ShapeText(tensor.shape), kTensorElementsMax));
  }
  if (!IsKnown(tensor.parameter_type) || !IsKnown(tensor.gradient_type)) {
    return InvalidArgumentError(StrFormat("%s: unknown element type %d or %d", who,
                                          static_cast<int>(tensor.parameter_type),
                                          static_cast<int>(tensor.gradient_type)));
  }
  return CheckMatrixRows(who, tensor, manifest.groups[static_cast<size_t>(tensor.group)]);
}

absl::Status CheckShard(const Manifest& manifest, const RankManifest& rank, size_t index) {
  const ShardSpec& shard = rank.shards[index];
  if (shard.tensor < 0 || static_cast<size_t>(shard.tensor) >= manifest.tensors.size()) {
    return InvalidArgumentError(StrFormat("rank %d, block %d: tensor %d, the manifest has %d",
                                          rank.rank, index, shard.tensor, manifest.tensors.size()));
  }
  const TensorSpec& tensor = manifest.tensors[static_cast<size_t>(shard.tensor)];
  const std::string who =
      StrFormat("rank %d, block %d of tensor '%s'", rank.rank, index, Short(tensor.name));
  if (shard.offset.size() != tensor.shape.size() || shard.extent.size() != tensor.shape.size()) {
    return InvalidArgumentError(StrFormat("%s: %d offsets and %d extents for %d dimensions", who,
                                          shard.offset.size(), shard.extent.size(),
                                          tensor.shape.size()));
  }
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    const int64_t offset = shard.offset[d], extent = shard.extent[d], side = tensor.shape[d];
    if (offset < 0 || extent < 0 || offset > side || extent > side - offset) {
      return InvalidArgumentError(
          StrFormat("%s: dimension %d, offset %d and extent %d in a side of %d", who, d, offset,
                    extent, side));
    }
  }
  if (shard.replica_kind != ReplicaKind::kSame && shard.replica_kind != ReplicaKind::kSum) {
    return InvalidArgumentError(
        StrFormat("%s: unknown replica kind %d", who, static_cast<int>(shard.replica_kind)));
  }
  if (shard.replicas < 1 || shard.replicas > kRanksMax || shard.replica < 0 ||
      shard.replica >= shard.replicas) {
    return InvalidArgumentError(StrFormat("%s: replica %d of %d, allowed are 1 to %d replicas", who,
                                          shard.replica, shard.replicas, kRanksMax));
  }
  if (shard.replica_kind == ReplicaKind::kSum &&
      !(std::isfinite(shard.divisor) && shard.divisor > 0)) {
    return InvalidArgumentError(StrFormat("%s: divisor %g of summed replicas", who, shard.divisor));
  }
  return absl::OkStatus();
}

// Mixes 64-bit words: multiply by an odd constant and fold the high half down, so that every input
// bit reaches every output bit within two words.
class Digester {
 public:
  void Word(uint64_t word) {
    state_ = (state_ ^ word) * 0x9e3779b97f4a7c15;
    state_ = (state_ ^ (state_ >> 32)) * 0xd6e8feb86659fd93;
    state_ ^= state_ >> 29;
  }
  void Number(int64_t number) { Word(static_cast<uint64_t>(number)); }
  void Real(double number) { Word(std::bit_cast<uint64_t>(number)); }
  void Text(const std::string& text) {
    Word(text.size());
    for (size_t at = 0; at < text.size(); at += 8) {
      uint64_t word = 0;
      for (size_t i = at; i < text.size() && i < at + 8; ++i) {
        word = (word << 8) | static_cast<uint8_t>(text[i]);
      }
      Word(word);
    }
  }
  void Numbers(absl::Span<const int64_t> numbers) {
    Word(numbers.size());
    for (int64_t number : numbers) Number(number);
  }
  uint64_t state() const { return state_; }

 private:
  uint64_t state_ = 0x6d756f6e64;
};

void Add(Digester& digest, const GroupSpec& group) {
  digest.Text(group.name);
  digest.Number(static_cast<int>(group.rule));
  digest.Text(group.table);
  digest.Number(static_cast<int64_t>(group.custom_steps.size()));
  for (const Coefficients& row : group.custom_steps) {
    digest.Real(row.a);
    digest.Real(row.b);
    digest.Real(row.c);
  }
  digest.Number(group.steps);
  digest.Number(static_cast<int>(group.update_scale));
}

void Add(Digester& digest, const TensorSpec& tensor) {
  digest.Text(tensor.name);
  digest.Numbers(tensor.shape);
  digest.Number(static_cast<int>(tensor.parameter_type));
  digest.Number(static_cast<int>(tensor.gradient_type));
  digest.Number(tensor.group);
  digest.Number(tensor.row_dims);
  digest.Numbers(tensor.matrix_rows);
  digest.Number(tensor.bucket);
}

std::string Difference(const std::string& who, const GroupSpec& a, const GroupSpec& b) {
  if (a.name != b.name)
    return StrFormat("%s: name '%s' against '%s'", who, Short(a.name), Short(b.name));
  if (a.rule != b.rule)
    return StrFormat("%s: rule %d against %d", who, static_cast<int>(a.rule),
                     static_cast<int>(b.rule));
  if (a.table != b.table)
    return StrFormat("%s: table '%s' against '%s'", who, Short(a.table), Short(b.table));
  if (a.steps != b.steps) return StrFormat("%s: %d steps against %d", who, a.steps, b.steps);
  if (a.update_scale != b.update_scale) {
    return StrFormat("%s: update scale %d against %d", who, static_cast<int>(a.update_scale),
                     static_cast<int>(b.update_scale));
  }
  if (a.custom_steps.size() != b.custom_steps.size()) {
    return StrFormat("%s: %d custom steps against %d", who, a.custom_steps.size(),
                     b.custom_steps.size());
  }
  for (size_t i = 0; i < a.custom_steps.size(); ++i) {
    const Coefficients &x = a.custom_steps[i], &y = b.custom_steps[i];
    if (x.a != y.a || x.b != y.b || x.c != y.c) {
      return StrFormat("%s: custom step %d (%g, %g, %g) against (%g, %g, %g)", who, i, x.a, x.b,
                       x.c, y.a, y.b, y.c);
    }
  }
  return "";
}

std::string Difference(const std::string& who, const TensorSpec& a, const TensorSpec& b) {
  if (a.name != b.name)
    return StrFormat("%s: name '%s' against '%s'", who, Short(a.name), Short(b.name));
  if (a.shape != b.shape)
    return StrFormat("%s: shape %s against %s", who, ShapeText(a.shape), ShapeText(b.shape));
  if (a.parameter_type != b.parameter_type || a.gradient_type != b.gradient_type) {
    return StrFormat("%s: element types %d, %d against %d, %d", who,
                     static_cast<int>(a.parameter_type), static_cast<int>(a.gradient_type),
                     static_cast<int>(b.parameter_type), static_cast<int>(b.gradient_type));
  }
  if (a.group != b.group) return StrFormat("%s: group %d against %d", who, a.group, b.group);
  if (a.row_dims != b.row_dims)
    return StrFormat("%s: row_dims %d against %d", who, a.row_dims, b.row_dims);
  if (a.matrix_rows != b.matrix_rows) {
    return StrFormat("%s: %d matrices against %d, or other heights", who, a.matrix_rows.size(),
                     b.matrix_rows.size());
  }
  if (a.bucket != b.bucket) return StrFormat("%s: bucket %d against %d", who, a.bucket, b.bucket);
  return "";
}

}  // namespace

bool MultiplyWithin(absl::Span<const int64_t> factors, int64_t limit, int64_t* product) {
  int64_t result = 1;
  for (int64_t factor : factors) {
    if (factor < 0) return false;
    if (factor != 0 && result > limit / factor) return false;
    result *= factor;
  }
  *product = result;
  return result <= limit;
}

int64_t ElementsOf(const TensorSpec& tensor) {
  int64_t elements = 1;
  for (int64_t side : tensor.shape) elements *= side;
  return elements;
}

int64_t ElementsOf(const ShardSpec& shard) {
  int64_t elements = 1;
  for (int64_t side : shard.extent) elements *= side;
  return elements;
}

MatrixView ViewOf(const TensorSpec& tensor) {
  MatrixView view;
  for (size_t d = 0; d < tensor.shape.size(); ++d) {
    (static_cast<int32_t>(d) < tensor.row_dims ? view.rows : view.cols) *= tensor.shape[d];
  }
  return view;
}

absl::Status Validate(const Manifest& manifest) {
  for (absl::Status status :
       {CheckCount("manifest: bytes of the job's name", static_cast<int64_t>(manifest.job.size()),
                   1, kJobNameBytesMax),
        CheckCount("manifest: world_size", manifest.world_size, 1, kRanksMax),
        CheckCount("manifest: groups", static_cast<int64_t>(manifest.groups.size()), 1, kGroupsMax),
        CheckCount("manifest: tensors", static_cast<int64_t>(manifest.tensors.size()), 1,
                   kTensorsMax),
        CheckCount("manifest: buckets", manifest.buckets, 1, kBucketsMax)}) {
    if (!status.ok()) return status;
  }
  for (size_t i = 0; i < manifest.groups.size(); ++i) {
    if (absl::Status status = CheckGroup(manifest.groups[i], i); !status.ok()) return status;
  }
  int64_t total = 0;  // each summand is at most 2^36, and at most 2^20 of them: no overflow
  for (size_t i = 0; i < manifest.tensors.size(); ++i) {
    int64_t elements = 0;
    if (absl::Status status = CheckTensor(manifest, i, &elements); !status.ok()) return status;
    total += elements;
  }
  if (total > kJobElementsMax) {
    return InvalidArgumentError(StrFormat("manifest: %d elements in %d tensors, the limit is %d",
                                          total, manifest.tensors.size(), kJobElementsMax));
  }
  return absl::OkStatus();
}

absl::Status Validate(const Manifest& manifest, const RankManifest& rank) {
  if (rank.rank < 0 || rank.rank >= manifest.world_size) {
    return InvalidArgumentError(
        StrFormat("rank %d of a world of %d", rank.rank, manifest.world_size));
  }
  if (absl::Status status =
          CheckCount(StrFormat("rank %d: blocks", rank.rank),
                     static_cast<int64_t>(rank.shards.size()), 0, kBlocksPerRankMax);
      !status.ok()) {
    return status;
  }
  if (absl::Status status =
          CheckCount(StrFormat("rank %d: bytes of its device's uuid", rank.rank),
                     static_cast<int64_t>(rank.device_uuid.size()), 0, kTextBytesMax);
      !status.ok()) {
    return status;
  }
  for (size_t i = 0; i < rank.shards.size(); ++i) {
    if (absl::Status status = CheckShard(manifest, rank, i); !status.ok()) return status;
  }
  return absl::OkStatus();
}

uint64_t DigestOf(const Manifest& manifest) {
  Digester digest;
  digest.Text(manifest.job);
  digest.Number(manifest.world_size);
  digest.Number(static_cast<int64_t>(manifest.groups.size()));
  for (const GroupSpec& group : manifest.groups) Add(digest, group);
  digest.Number(static_cast<int64_t>(manifest.tensors.size()));
  for (const TensorSpec& tensor : manifest.tensors) Add(digest, tensor);
  digest.Number(manifest.buckets);
  return digest.state();
}

std::string FirstDifference(const Manifest& a, const Manifest& b) {
  if (a.job != b.job) return StrFormat("job '%s' against '%s'", Short(a.job), Short(b.job));
  if (a.world_size != b.world_size)
    return StrFormat("world_size %d against %d", a.world_size, b.world_size);
  if (a.groups.size() != b.groups.size()) {
    return StrFormat("%d groups against %d", a.groups.size(), b.groups.size());
  }
  if (a.tensors.size() != b.tensors.size()) {
    return StrFormat("%d tensors against %d", a.tensors.size(), b.tensors.size());
  }
  if (a.buckets != b.buckets) return StrFormat("%d buckets against %d", a.buckets, b.buckets);
  for (size_t i = 0; i < a.groups.size(); ++i) {
    std::string text = Difference(StrFormat("group %d '%s'", i, Short(a.groups[i].name)),
                                  a.groups[i], b.groups[i]);
    if (!text.empty()) return text;
  }
  for (size_t i = 0; i < a.tensors.size(); ++i) {
    std::string text = Difference(StrFormat("tensor %d '%s'", i, Short(a.tensors[i].name)),
                                  a.tensors[i], b.tensors[i]);
    if (!text.empty()) return text;
  }
  return "";
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

}  // namespace muond
