#include "tests/support/local_plans.h"

#include <utility>

#include "proto/planner/planner.h"
#include "server/daemon/job_slabs.h"

namespace muond::testing {

void LocalPlans::CreateJob(std::shared_ptr<const Manifest> manifest,
                           std::vector<std::shared_ptr<const RankManifest>> ranks,
                           const AdoptedJob& adopted,
                           absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) {
  std::vector<DeviceSpec> devices;
  for (const auto& device : backend_.devices()) {
    const DeviceInfo& info = device->info();
    devices.push_back({daemon_, info.ordinal, info.uuid, info.name, info.architecture,
                       info.memory_bytes, device->free_bytes()});
  }
  std::vector<RankManifest> rank_values;
  for (const auto& rank : ranks) rank_values.push_back(*rank);
  PlannerInput input;
  input.manifest = manifest.get();
  input.ranks = rank_values;
  input.devices = devices;
  auto planned = MakePlan(input);
  if (!planned.ok()) return done(planned.status());
  PlannedJob job;
  job.job_id = adopted.job_id != 0 ? adopted.job_id : MintId();
  job.plan = std::move(planned->plan);
  done(std::move(job));
}

void LocalPlans::EndJob(uint64_t, const std::string&) {}

}  // namespace muond::testing
