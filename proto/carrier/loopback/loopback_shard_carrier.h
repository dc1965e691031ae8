// The loopback shard carrier: shard_carrier.h between parts of one process, by memcpy, over a net whose delay, loss
// and cuts a test decides. Time is an argument: nothing waits for a clock.
// Threads: the ends of one net and the net itself may be used from different threads, each end from one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

struct LoopbackNetOptions {
  int64_t delay_ns = 0;  // 0: what is sent lands within the call that sends it
  double frame_loss =
      0;  // this part of the frames never arrives; puts and connections are not lost
  int64_t silence_ns_max = 1'000'000'000;  // a cut peer is gone after this
  uint64_t seed = 1;                       // of the losses
};

class LoopbackNet {
 public:
  static std::shared_ptr<LoopbackNet> Create(const LoopbackNetOptions& options = {});
  virtual ~LoopbackNet() = default;
  // Time goes on, never back: what is due lands, peers that were cut off too long are gone. Starts at 0.
  virtual void AdvanceTo(int64_t now_ns) = 0;
  // Nothing passes to or from this end until Heal; what was sent meanwhile lands then, if its peer is still there.
  virtual void Cut(std::string_view address) = 0;
  virtual void Heal(std::string_view address) = 0;
};

// An end that listens ("loopback:1", "loopback:2", ...) and can connect. The net lives while an end does. `address`: of an end
// that is no more, for its successor; ALREADY_EXISTS when it still is.
absl::StatusOr<std::unique_ptr<ShardCarrier>> CreateLoopbackShards(std::shared_ptr<LoopbackNet> net,
                                                                   const ShardLimits& limits = {},
                                                                   std::string_view address = {});

}  // namespace muond
