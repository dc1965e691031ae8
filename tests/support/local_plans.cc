#include "tests/support/local_plans.h"

#include <utility>

#include "proto/planner/planner.h"
#include "server/daemon/job_slabs.h"
#include "server/observe/log.h"

namespace muond::testing {

namespace {

std::vector<DeviceSpec> DevicesOf(const Backend& backend, const std::string& daemon) {
  std::vector<DeviceSpec> devices;
  for (const auto& device : backend.devices()) {
    const DeviceInfo& info = device->info();
    devices.push_back({daemon, info.ordinal, info.uuid, info.name, info.architecture,
                       info.memory_bytes, device->free_bytes()});
  }
  return devices;
}

}  // namespace

LocalPlans::LocalPlans(Coordinator* coordinator, const Backend& backend)
    : backend_(backend), coordinator_(coordinator) {
  RegisterCall call;
  call.endpoint = "unix:/river";
  call.devices = DevicesOf(backend, "");
  auto reply = coordinator->Register(call, absl::Now());
  MUOND_CHECK_OK(reply.status());
  daemon_ = reply->daemon;
}

void LocalPlans::OfferRanks(OfferCall call,
                            absl::AnyInvocable<void(absl::StatusOr<OfferReply>)> done) {
  if (coordinator_ == nullptr) return PlanSource::OfferRanks(std::move(call), std::move(done));
  call.daemon = daemon_;
  done(coordinator_->OfferRanks(call, absl::Now()));
}

void LocalPlans::CreateJob(std::shared_ptr<const Manifest> manifest,
                           std::vector<std::shared_ptr<const RankManifest>> ranks,
                           const AdoptedJob& adopted,
                           absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) {
  const std::vector<DeviceSpec> devices = DevicesOf(backend_, daemon_);
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

void LocalPlans::EndJob(uint64_t job, const std::string& reason) {
  if (coordinator_ != nullptr) coordinator_->EndJob(job, reason).IgnoreError();
}

}  // namespace muond::testing
