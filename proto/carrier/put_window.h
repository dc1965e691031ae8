// PutWindow: which puts to one peer fly and which wait. Bookkeeping shared by the shard carriers; it moves no bytes.
// Puts fly in the order in which they were added, so that a large one is not overtaken for ever.
// Threads: those of its carrier.   Units: bytes.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "absl/status/status.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

// INVALID_ARGUMENT: nothing to write; OUT_OF_RANGE, with the numbers: beyond a region of `region_bytes`.
absl::Status CheckPut(const PutRequest& put, uint64_t region_bytes);

class PutWindow {
 public:
  explicit PutWindow(const ShardLimits& limits) : limits_(limits) {}
  // RESOURCE_EXHAUSTED with the numbers when puts_queued_max wait already.
  absl::Status Add(const PutRequest& put);
  // The next put, which from now on flies; nothing while it does not fit beside those that fly.
  std::optional<PutRequest> Next();
  // A put that flew has ended, well or not.
  void Ended(uint64_t size_bytes);
  // A put that never flew; nothing when none waits. For a peer that is gone.
  std::optional<PutRequest> TakeWaiting();

  size_t waiting() const { return waiting_.size(); }
  size_t in_flight() const { return puts_in_flight_; }
  uint64_t bytes_in_flight() const { return bytes_in_flight_; }

 private:
  const ShardLimits limits_;
  std::deque<PutRequest> waiting_;
  size_t puts_in_flight_ = 0;
  uint64_t bytes_in_flight_ = 0;
};

}  // namespace muond
