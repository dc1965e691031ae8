// PlanSource: where plans come from: a coordinator in this process, or one reached by gRPC. Never
// on the step path. Threads: called by the StepLoop; a callback may run at once, or later on any
// thread (the loop posts it to itself).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "proto/types/coordinator_calls.h"
#include "proto/types/plan.h"

namespace muond {

struct PlannedJob {
  uint64_t job_id = 0;  // random, never 0
  uint32_t incarnation =
      1;  // the coordinator's count; the daemon goes on from its own where that is ahead
  Plan plan;
};

// The job whose state this daemon holds and that is to go on; job_id 0: none, the job is new.
struct AdoptedJob {
  uint64_t job_id = 0;
  uint32_t incarnation = 0;  // the newest that this daemon knows
};

class PlanSource {
 public:
  virtual ~PlanSource() = default;
  // Enters the job and plans it: a new one (ALREADY_EXISTS when one of that name runs), or the next
  // incarnation of `adopted`.
  virtual void CreateJob(std::shared_ptr<const Manifest> manifest,
                         std::vector<std::shared_ptr<const RankManifest>> ranks,
                         const AdoptedJob& adopted,
                         absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) = 0;
  // Ranks that wait here for those of other daemons; asked again until the answer is complete. The source names the daemon.
  virtual void OfferRanks(OfferCall, absl::AnyInvocable<void(absl::StatusOr<OfferReply>)> done) {
    done(absl::UnimplementedError("plans of this daemon are for its own devices alone"));
  }
  virtual void EndJob(uint64_t job_id, const std::string& reason) = 0;
};

}  // namespace muond
