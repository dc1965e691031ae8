// LocalPlans: a PlanSource for a river under test: the planner (proto/planner) over one daemon's devices. With a coordinator,
// which several rivers may share, the daemon is registered there, and ranks are offered to it.
// Threads: the caller's; a callback runs at once.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/backend.h"
#include "server/coordinator/coordinator.h"
#include "server/daemon/plan_source.h"

namespace muond::testing {

class LocalPlans final : public PlanSource {
 public:
  // `backend` is borrowed.
  LocalPlans(std::string daemon, const Backend& backend)
      : daemon_(std::move(daemon)), backend_(backend) {}
  void CreateJob(std::shared_ptr<const Manifest> manifest,
                 std::vector<std::shared_ptr<const RankManifest>> ranks, const AdoptedJob& adopted,
                 absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) override;
  // Registers; from then on daemon() is the id that it was given.
  LocalPlans(Coordinator* coordinator, const Backend& backend);
  const std::string& daemon() const { return daemon_; }
  void OfferRanks(OfferCall call,
                  absl::AnyInvocable<void(absl::StatusOr<OfferReply>)> done) override;
  void EndJob(uint64_t job_id, const std::string& reason) override;

 private:
  std::string daemon_;
  const Backend& backend_;
  Coordinator* const coordinator_ = nullptr;
};

}  // namespace muond::testing
