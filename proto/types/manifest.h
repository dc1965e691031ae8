// The manifest: what a job consists of, as validated values. The messages of proto/muond/v1 end in
// convert.cc. Threads: plain values.   Units: shapes, offsets and extents in elements. Errors:
// Validate returns INVALID_ARGUMENT that names the tensor, group or block and both numbers; nothing
// is
//          allocated by it in proportion to a number that a peer wrote.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/optim/muon.h"
#include "kernels/runtime/dtype.h"

namespace muond {

// The values are part of the manifest and of snapshots: never renumber.
enum class Rule : uint8_t { kMuon = 1, kAdamW = 2 };

struct GroupSpec {
  std::string name;
  Rule rule = Rule::kMuon;
  std::string table = "jordan";            // muon: a table's name, or "custom"
  std::vector<Coefficients> custom_steps;  // of table "custom"
  int32_t steps = 0;                       // Newton-Schulz steps; 0: the table's own count
  UpdateScale update_scale = UpdateScale::kOriginal;
};

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;  // empty: a scalar
  DType parameter_type = DType::kFloat32;
  DType gradient_type = DType::kFloat32;
  int32_t group = 0;
  int32_t row_dims = 1;  // the view's rows are the product of shape[0 .. row_dims)
  std::vector<int64_t>
      matrix_rows;  // muon: heights of the view's matrices, in order; empty: one matrix
  int32_t bucket = 0;
};

// Equal on every rank of the job.
struct Manifest {
  std::string job;
  int32_t world_size = 1;
  std::vector<GroupSpec> groups;
  std::vector<TensorSpec> tensors;
  int32_t buckets = 1;
};

enum class ReplicaKind : uint8_t { kSame = 1, kSum = 2 };

// A rectangle of a tensor that one rank holds (the protocol's Block; kernels/ops has a Block of its
// own).
struct ShardSpec {
  int32_t tensor = 0;
  std::vector<int64_t> offset;  // one a dimension
  std::vector<int64_t> extent;  // may hold a zero: an empty shard
  ReplicaKind replica_kind = ReplicaKind::kSame;
  int32_t replica = 0;
  int32_t replicas = 1;
  double divisor = 1;  // kSum only: the sum of the replicas is divided by it
};

struct RankManifest {
  int32_t rank = 0;
  std::vector<ShardSpec> shards;
  // Of the device in whose memory the shards lie; empty: host memory, or unknown.
  std::string device_uuid = {};
};

// A tensor as a matrix.
struct MatrixView {
  int64_t rows = 1, cols = 1;
};

absl::Status Validate(const Manifest& manifest);
// Shards against their tensors: ranks, indices, offsets and extents inside the shape, replicas. Not
// the cover.
absl::Status Validate(const Manifest& manifest, const RankManifest& rank);

// REQUIRES: a valid tensor (or shard of one).
int64_t ElementsOf(const TensorSpec& tensor);
int64_t ElementsOf(const ShardSpec& shard);
MatrixView ViewOf(const TensorSpec& tensor);

// Product of non-negative factors; false when it passes `limit`.
bool MultiplyWithin(absl::Span<const int64_t> factors, int64_t limit, int64_t* product);

// A 64-bit digest of everything in the manifest, equal on equal manifests, for comparing ranks. Not
// cryptographic.
uint64_t DigestOf(const Manifest& manifest);

// The first thing in which two manifests differ ("tensor 3 'w': shape [4,4] against [4,5]"); empty
// when equal.
std::string FirstDifference(const Manifest& a, const Manifest& b);

std::string ShapeText(absl::Span<const int64_t> shape);  // "[4,5]"

}  // namespace muond
