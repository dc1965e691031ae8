// RestartPolicy: when a dead stepper is started again, and when the keeper gives up. A pure
// decision: `now` is an argument.
//
// A stepper that served and died is started at once, so that ranks see a slow step and no more;
// only after 20 such deaths within a minute it waits a second each time. A stepper that dies before
// it serves is tried again after 0.1, 0.2, 0.4 … at most 5 seconds; after the sixth such death in a
// row nothing will help, and the keeper ends. One that ends by itself with an error before it ever
// served, while nothing is kept, is not tried again: it has said why.
#pragma once

#include <deque>

#include "absl/time/time.h"

namespace muond {

struct StepperEnd {
  bool served = false;     // it had said kReady
  bool by_itself = false;  // exited, rather than killed by a signal
  bool first = false;      // no stepper of this keeper ever served
  bool slabs_kept = false;
};

struct RestartDecision {
  bool restart = false;
  absl::Duration delay;  // from now
};

class RestartPolicy {
 public:
  static constexpr int kFailuresInARowMax = 6;
  static constexpr int kQuickRestartsPerMinute = 20;
  RestartDecision Decide(absl::Time now, const StepperEnd& end);
  int failures_in_a_row() const { return failures_; }

 private:
  int failures_ = 0;
  std::deque<absl::Time> served_deaths_;
};

}  // namespace muond
