// Gate: what a frame may say now. A pure function of the frame and of what its session is; every case has one answer.
// Threads: plain values.
#pragma once

#include <cstdint>

#include "proto/wire/frame.h"

namespace muond {

// What the daemon knows when the frame arrives.
struct GateView {
  bool known = false;  // the session exists, and this connection said HELLO for it (or says it now)
  uint64_t job = 0;
  uint32_t rank = 0, incarnation = 0, buckets = 0;
  uint64_t epoch = 0;
  uint64_t verdict_step = 0;  // newest step with a verdict
  bool verdict_over = true;   // and all of it has reached the ranks
};

enum class GateAnswer : uint8_t {
  kTake = 1,    // HELLO, PING, BYE; READY and STEP of the next step
  kReplay = 2,  // the step has a verdict and is over: answer with the recorded outcome
  kHold = 3,    // the step has a verdict and is being finished: its end answers
  kRefuse = 4,  // REFUSED with `reason`; step and epoch of the answer are what the daemon expects
  kIgnore = 5,  // a frame that only the daemon sends
};

struct GateDecision {
  GateAnswer answer = GateAnswer::kTake;
  RefusedReason reason = RefusedReason::kUnknownSession;
  uint64_t expected_step = 0;
};

GateDecision Admit(const GateView& view, const Frame& frame);

}  // namespace muond
