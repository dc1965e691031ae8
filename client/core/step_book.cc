#include "client/core/step_book.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace muond {

StepBook::StepBook(const Manifest& manifest, const RankManifest& rank,
                   const std::vector<ShardInSlab>& places)
    : manifest_(manifest), rank_(rank), places_(places) {
  Begin(1);
}

void StepBook::Begin(uint64_t step) {
  step_ = step;
  committed_ = false;
  present_.assign((manifest_.tensors.size() + 63) / 64, 0);
  digests_.assign(rank_.shards.size(), 0);
  announced_.assign(manifest_.buckets, false);
}

absl::Status StepBook::MayPut(int32_t shard, uint64_t size_bytes) const {
  if (shard < 0 || static_cast<size_t>(shard) >= places_.size()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "block %d was put; this rank has %d, counted from 0", shard, places_.size()));
  }
  const TensorSpec& tensor = manifest_.tensors[rank_.shards[shard].tensor];
  if (committed_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("a gradient of %s was put while step %d is not over: wait for it first",
                        tensor.name, step_));
  }
  if (announced_[tensor.bucket]) {
    return absl::FailedPreconditionError(
        absl::StrFormat("a gradient of %s was put after bucket %d of step %d was announced",
                        tensor.name, tensor.bucket, step_));
  }
  if (size_bytes != places_[shard].size_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the gradient of %s has %d bytes; its block of shape %s has %d", tensor.name, size_bytes,
        ShapeText(rank_.shards[shard].extent), places_[shard].size_bytes));
  }
  return absl::OkStatus();
}

void StepBook::DidPut(int32_t shard, uint64_t digest) {
  const int32_t tensor = rank_.shards[shard].tensor;
  present_[tensor / 64] |= uint64_t{1} << (tensor % 64);
  digests_[shard] = digest;
}

absl::Status StepBook::MayAnnounce(int32_t bucket) const {
  if (bucket < 0 || bucket >= manifest_.buckets) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "bucket %d was announced; the job has %d, counted from 0", bucket, manifest_.buckets));
  }
  if (committed_) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "bucket %d was announced while step %d is not over: wait for it first", bucket, step_));
  }
  return absl::OkStatus();
}

absl::Status StepBook::MayCommit(const StepSettings& settings) const {
  if (committed_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("step %d is committed and not over: wait for it first", step_));
  }
  if (settings.groups.size() != manifest_.groups.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("settings for %d groups were given; the job has %d", settings.groups.size(),
                        manifest_.groups.size()));
  }
  for (size_t g = 0; g < settings.groups.size(); ++g) {
    const GroupScalars& s = settings.groups[g];
    for (double value : {s.lr, s.weight_decay, s.momentum, s.eps, s.beta1, s.beta2}) {
      if (std::isfinite(value)) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("group %s of step %d: lr %g, weight decay %g, momentum %g, eps %g, betas "
                          "%g and %g must all be finite",
                          manifest_.groups[g].name, step_, s.lr, s.weight_decay, s.momentum, s.eps,
                          s.beta1, s.beta2));
    }
  }
  if (!(settings.loss_scale > 0) || !std::isfinite(settings.loss_scale)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the loss scale of step %d is %g; it must be positive", step_, settings.loss_scale));
  }
  if (!(settings.clip_norm >= 0)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the clip norm of step %d is %g; it must not be negative", step_, settings.clip_norm));
  }
  return absl::OkStatus();
}

absl::Status StepBook::MayWait() const {
  if (committed_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("step %d was not committed: there is nothing to wait for", step_));
}

}  // namespace muond
