// LocalPlans: a PlanSource for one daemon by itself: the planner (proto/planner) over this daemon's
// devices, and ids from here. For a daemon without coordinator, tests and benchmarks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/backend.h"
#include "server/daemon/plan_source.h"

namespace muond {

class LocalPlans final : public PlanSource {
 public:
  // `backend` is borrowed.
  LocalPlans(std::string daemon, const Backend& backend)
      : daemon_(std::move(daemon)), backend_(backend) {}
  void CreateJob(std::shared_ptr<const Manifest> manifest,
                 std::vector<std::shared_ptr<const RankManifest>> ranks, uint64_t adopt_job_id,
                 absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) override;
  void EndJob(uint64_t job_id, const std::string& reason) override;

 private:
  std::string daemon_;
  const Backend& backend_;
};

}  // namespace muond
