#include "server/keeper/restart_policy.h"

#include <algorithm>

namespace muond {

RestartDecision RestartPolicy::Decide(absl::Time now, const StepperEnd& end) {
  if (end.served) {
    failures_ = 0;
    served_deaths_.push_back(now);
    while (now - served_deaths_.front() > absl::Minutes(1)) served_deaths_.pop_front();
    const bool quick = served_deaths_.size() <= kQuickRestartsPerMinute;
    return {true, quick ? absl::ZeroDuration() : absl::Seconds(1)};
  }
  ++failures_;
  if (end.by_itself && end.first && !end.slabs_kept) return {false, absl::ZeroDuration()};
  if (failures_ >= kFailuresInARowMax) return {false, absl::ZeroDuration()};
  return {true, std::min(absl::Milliseconds(100) * (1 << (failures_ - 1)), absl::Seconds(5))};
}

}  // namespace muond
