#include "server/daemon/embedded_coordinator.h"

#include "absl/strings/str_cat.h"
#include "proto/planner/planner.h"
#include "server/daemon/job_slabs.h"

namespace muond {

absl::StatusOr<RegisterReply> EmbeddedCoordinator::Register(const RegisterCall& call) {
  devices_ = call.devices;
  for (DeviceSpec& device : devices_) device.daemon = kEmbeddedDaemon;
  RegisterReply reply;
  reply.daemon = kEmbeddedDaemon;
  return reply;
}

absl::StatusOr<HeartbeatReply> EmbeddedCoordinator::Heartbeat(const HeartbeatCall& call) {
  devices_ = call.devices;
  return HeartbeatReply{epoch_};
}

absl::StatusOr<CreateJobReply> EmbeddedCoordinator::CreateJob(const CreateJobCall& call) {
  for (const auto& [id, entry] : jobs_) {
    if (entry.name == call.manifest.job && id != call.job) {
      return absl::AlreadyExistsError(
          absl::StrCat("a job named \"", call.manifest.job, "\" runs already"));
    }
  }
  const uint64_t id = call.adopt ? call.job : MintId();
  const auto older = jobs_.find(id);
  const uint64_t digest = DigestOf(call.manifest);
  PlannerInput input;
  input.manifest = &call.manifest;
  input.ranks = call.ranks;
  input.devices = devices_;
  input.epoch = epoch_ + 1;
  // Items keep their place when the job comes back: its state lies there.
  if (older != jobs_.end() && older->second.manifest_digest == digest)
    input.previous = older->second.plan.get();
  auto planned = MakePlan(input);
  if (!planned.ok()) return planned.status();
  ++epoch_;
  // A successor of a dead stepper does not know how often the job came back; the loop counts on from what it holds.
  const uint32_t incarnation = older == jobs_.end() ? 1 : older->second.incarnation + 1;
  jobs_[id] = {call.manifest.job, incarnation, digest, std::make_shared<const Plan>(planned->plan)};
  return CreateJobReply{id, incarnation, std::move(planned->plan)};
}

absl::Status EmbeddedCoordinator::EndJob(uint64_t job, const std::string&) {
  jobs_.erase(job);
  return absl::OkStatus();
}

}  // namespace muond
