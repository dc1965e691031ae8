// Liveness: when to say that we are here, and when a peer has said nothing for too long. A network that was cut and a
// process that was stopped tell nobody: only time does.
// Threads: plain values.   Units: nanoseconds of the caller's monotonic clock.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace muond {

struct LivenessOptions {
  int64_t heartbeat_ns = 250'000'000;      // we say something at least this often
  int64_t silence_ns_max = 2'000'000'000;  // a peer that said nothing for longer is gone
};

class Liveness {
 public:
  Liveness(const LivenessOptions& options, int64_t now_ns)
      : options_(options), sent_ns_(now_ns), heard_ns_(now_ns) {}
  void Sent(int64_t now_ns) { sent_ns_ = now_ns; }
  void Heard(int64_t now_ns) { heard_ns_ = now_ns; }
  // We ourselves did not look for this long: that is no silence of the peer's.
  void Overslept(int64_t slept_ns) { heard_ns_ += slept_ns; }
  bool MustSend(int64_t now_ns) const { return now_ns - sent_ns_ >= options_.heartbeat_ns; }
  bool Silent(int64_t now_ns) const { return now_ns - heard_ns_ > options_.silence_ns_max; }
  int64_t silent_ns(int64_t now_ns) const { return now_ns - heard_ns_; }

 private:
  LivenessOptions options_;
  int64_t sent_ns_;
  int64_t heard_ns_;
};

// INVALID_ARGUMENT with the numbers unless 0 < 2 * heartbeat_ns <= silence_ns_max.
absl::Status CheckLiveness(const LivenessOptions& options);

}  // namespace muond
