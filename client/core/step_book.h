// StepBook: what a rank has said about the step that comes next, and what it may say now.
// Decides only: it touches no memory of a slab, sends nothing.
// Threads: one at a time.   Errors: FAILED_PRECONDITION and INVALID_ARGUMENT with names and
// numbers; a refused call changes nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "client/core/client.h"

namespace muond {

class StepBook {
 public:
  // All borrowed for the book's life.
  StepBook(const Manifest& manifest, const RankManifest& rank,
           const std::vector<ShardInSlab>& places);

  // The step that is put together now, or, once committed, waited for.
  uint64_t step() const { return step_; }
  bool committed() const { return committed_; }
  bool announced(int32_t bucket) const { return announced_[bucket]; }
  // Bit t set: tensor t has a gradient here.
  absl::Span<const uint64_t> present() const { return present_; }
  absl::Span<const uint64_t> digests() const { return digests_; }  // one for each shard

  absl::Status MayPut(int32_t shard, uint64_t size_bytes) const;
  void DidPut(int32_t shard, uint64_t digest);
  absl::Status MayAnnounce(int32_t bucket) const;
  void DidAnnounce(int32_t bucket) { announced_[bucket] = true; }
  absl::Status MayCommit(const StepSettings& settings) const;
  void DidCommit() { committed_ = true; }
  absl::Status MayWait() const;
  // `step` is over: the next one starts empty.
  void Begin(uint64_t step);

 private:
  const Manifest& manifest_;
  const RankManifest& rank_;
  const std::vector<ShardInSlab>& places_;
  uint64_t step_ = 1;
  bool committed_ = false;
  std::vector<uint64_t> present_;
  std::vector<uint64_t> digests_;
  std::vector<bool> announced_;
};

}  // namespace muond
