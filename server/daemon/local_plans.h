// LocalPlans: a PlanSource for one daemon by itself: every item on one of its own devices, longest first onto the device with
// the least. For tests and benchmarks of the river; a daemon asks a coordinator.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/runtime/backend.h"
#include "server/daemon/plan_source.h"

namespace muond {

class LocalPlans final : public PlanSource {
 public:
  LocalPlans(std::string daemon, const Backend& backend) : daemon_(std::move(daemon)), backend_(backend) {}
  void CreateJob(std::shared_ptr<const Manifest> manifest, std::vector<std::shared_ptr<const RankManifest>> ranks,
                 uint64_t adopt_job_id, absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) override;
  void EndJob(uint64_t job_id, const std::string& reason) override;

 private:
  std::string daemon_;
  const Backend& backend_;
  uint64_t epoch_ = 0;
  uint32_t incarnation_ = 1;
};

// The same as a function: owners and nominal costs of the items of `manifest`.
absl::StatusOr<Plan> PlanLocally(const Manifest& manifest, const std::string& daemon, const Backend& backend, uint64_t epoch);

}  // namespace muond
