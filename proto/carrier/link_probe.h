// LinkProbe: what a connection to a peer carries, measured with puts at join; and whether that is what such a link should.
// A state machine: the owner hands it the events of its tokens and the time. It starts no thread and waits for nothing.
// Threads: those of the carrier.   Units: bytes, nanoseconds of the caller's monotonic clock.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

struct LinkFigures {
  double bytes_per_second = 0;  // of puts of the scratch's size, four under way
  double put_seconds = 0;       // median of a put of one byte, there and answered
};

class LinkProbe {
 public:
  struct Options {
    PeerId peer = kNoPeer;
    RemoteRegionId region = 0;  // the peer's scratch; what is in it is lost
    uint64_t region_bytes = 0;
    uint64_t token = 0;                 // all puts of the probe have this token
    int64_t duration_ns = 200'000'000;  // of the measurement of bandwidth
  };
  // Starts with the first put. `carrier` outlives this.
  static absl::StatusOr<LinkProbe> Start(ShardCarrier* carrier, const Options& options,
                                         int64_t now_ns);
  // A kPutDone with the probe's token. The figures after the last one; an error ends the probe (events of puts that
  // were under way still come, and may be dropped).
  absl::StatusOr<std::optional<LinkFigures>> On(const CarrierEvent& event, int64_t now_ns);

 private:
  LinkProbe(ShardCarrier* carrier, const Options& options)
      : carrier_(carrier), options_(options), bytes_(options.region_bytes, 0x5a) {}
  absl::Status PutBytes(uint64_t size_bytes);
  ShardCarrier* carrier_;
  Options options_;
  std::vector<uint8_t> bytes_;
  std::vector<int64_t> latencies_ns_;
  int64_t put_ns_ = 0;  // start of the small put, then of the bandwidth's measurement
  int64_t under_way_ = 0;
  uint64_t landed_bytes_ = 0;
};

// Whether a link is far from its kind: `others` are the figures of the links that should be like it. Slow when it has less
// than a tenth of their median bandwidth, or ten times their median put. With no others there is nothing to say.
struct LinkVerdict {
  bool slow = false;
  std::string reason;  // one sentence with the numbers, slow or not
};
LinkVerdict JudgeLink(const LinkFigures& link, std::span<const LinkFigures> others);

}  // namespace muond
