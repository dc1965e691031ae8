#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "muond/v1/coordinator.pb.h"
#include "proto/types/convert.h"
#include "proto/types/convert_internal.h"
#include "proto/types/limits.h"
#include "proto/types/shards.h"

namespace muond {
namespace {

using convert::CheckCount;

template <typename Messages>
absl::Status DevicesFrom(const Messages& messages, std::vector<DeviceSpec>* devices) {
  if (absl::Status status =
          CheckCount("devices of one daemon", messages.size(), kDevicesPerDaemonMax);
      !status.ok()) {
    return status;
  }
  for (const v1::Device& message : messages) {
    absl::StatusOr<DeviceSpec> device = muond::FromProto(message);
    if (!device.ok()) return device.status();
    devices->push_back(*std::move(device));
  }
  return absl::OkStatus();
}

void ToProto(const DaemonEntry& value, v1::DaemonEntry* message) {
  message->set_daemon(value.daemon);
  message->set_endpoint(value.endpoint);
  message->set_build(value.build);
  for (const DeviceSpec& device : value.devices) muond::ToProto(device, message->add_devices());
  message->set_heartbeat_age_ms(value.heartbeat_age_ms);
  message->set_draining(value.draining);
}

absl::StatusOr<DaemonEntry> FromProto(const v1::DaemonEntry& message) {
  DaemonEntry value;
  if (absl::Status status = DevicesFrom(message.devices(), &value.devices); !status.ok()) {
    return status;
  }
  value.daemon = message.daemon();
  value.endpoint = message.endpoint();
  value.build = message.build();
  value.heartbeat_age_ms = message.heartbeat_age_ms();
  value.draining = message.draining();
  return value;
}

}  // namespace

std::string Serialize(const DaemonEntry& entry) {
  v1::DaemonEntry message;
  ToProto(entry, &message);
  return message.SerializeAsString();
}

absl::StatusOr<DaemonEntry> ParseDaemonEntry(std::string_view bytes) {
  v1::DaemonEntry message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError(absl::StrFormat("daemon of %d bytes does not parse", bytes.size()));
  }
  return FromProto(message);
}

void ToProto(const RegisterCall& value, v1::RegisterDaemonRequest* message) {
  ToProto(value.version, message->mutable_version());
  message->set_endpoint(value.endpoint);
  for (const DeviceSpec& device : value.devices) ToProto(device, message->add_devices());
  message->set_daemon(value.daemon);
  if (!value.held) return;
  v1::JobsHeld* const held = message->mutable_held();
  for (uint64_t job : *value.held) held->add_job_ids(job);
}

absl::StatusOr<RegisterCall> FromProto(const v1::RegisterDaemonRequest& message) {
  RegisterCall value;
  value.version = FromProto(message.version());
  for (absl::Status status :
       {CheckCount("register: bytes of the endpoint",
                   static_cast<int64_t>(message.endpoint().size()), kTextBytesMax),
        CheckCount("register: bytes of the daemon's id",
                   static_cast<int64_t>(message.daemon().size()), kTextBytesMax),
        CheckCount("register: jobs held", message.held().job_ids_size(), kJobsMax),
        DevicesFrom(message.devices(), &value.devices)}) {
    if (!status.ok()) return status;
  }
  value.endpoint = message.endpoint();
  value.daemon = message.daemon();
  if (message.has_held())
    value.held.emplace(message.held().job_ids().begin(), message.held().job_ids().end());
  return value;
}

void ToProto(const HeartbeatCall& value, v1::HeartbeatRequest* message) {
  message->set_daemon(value.daemon);
  for (const DeviceSpec& device : value.devices) ToProto(device, message->add_devices());
  message->set_draining(value.draining);
}

absl::StatusOr<HeartbeatCall> FromProto(const v1::HeartbeatRequest& message) {
  HeartbeatCall value;
  if (absl::Status status = DevicesFrom(message.devices(), &value.devices); !status.ok())
    return status;
  value.daemon = message.daemon();
  value.draining = message.draining();
  return value;
}

void ToProto(const CreateJobCall& value, v1::CreateJobRequest* message) {
  message->set_daemon(value.daemon);
  ToProto(value.manifest, message->mutable_manifest());
  for (const RankManifest& rank : value.ranks) ToProto(rank, message->add_ranks());
  message->set_adopt(value.adopt);
  message->set_job_id(value.job);
  message->set_incarnation(value.incarnation);
}

absl::StatusOr<CreateJobCall> FromProto(const v1::CreateJobRequest& message) {
  CreateJobCall value;
  value.daemon = message.daemon();
  absl::StatusOr<Manifest> manifest = FromProto(message.manifest());
  if (!manifest.ok()) return manifest.status();
  value.manifest = *std::move(manifest);
  if (absl::Status status = CheckCount("job: ranks", message.ranks_size(), kRanksMax); !status.ok())
    return status;
  for (const v1::RankManifest& in : message.ranks()) {
    absl::StatusOr<RankManifest> rank = FromProto(in);
    if (!rank.ok()) return rank.status();
    value.ranks.push_back(*std::move(rank));
  }
  if (absl::Status status = CheckRanks(value.manifest, value.ranks); !status.ok()) return status;
  value.adopt = message.adopt();
  value.job = message.job_id();
  value.incarnation = message.incarnation();
  return value;
}

void ToProto(const CreateJobReply& value, v1::CreateJobResponse* message) {
  message->set_job_id(value.job);
  message->set_incarnation(value.incarnation);
  ToProto(value.plan, message->mutable_plan());
}

absl::StatusOr<CreateJobReply> FromProto(const v1::CreateJobResponse& message) {
  absl::StatusOr<Plan> plan = FromProto(message.plan());
  if (!plan.ok()) return plan.status();
  return CreateJobReply{message.job_id(), message.incarnation(), *std::move(plan)};
}

void ToProto(const ClusterStatus& value, v1::GetClusterResponse* message) {
  ToProto(value.version, message->mutable_version());
  message->set_coordinator(value.coordinator);
  for (const DaemonEntry& daemon : value.daemons) ToProto(daemon, message->add_daemons());
  for (const JobEntry& job : value.jobs) {
    v1::JobEntry* out = message->add_jobs();
    out->set_job_id(job.job);
    out->set_name(job.name);
    out->set_incarnation(job.incarnation);
    out->set_epoch(job.epoch);
    out->set_world_size(job.world_size);
    out->set_items(job.items);
    out->set_daemon(job.daemon);
    out->set_orphaned(job.orphaned);
    out->set_imbalance(job.imbalance);
  }
}

absl::StatusOr<ClusterStatus> FromProto(const v1::GetClusterResponse& message) {
  for (absl::Status status : {CheckCount("cluster: daemons", message.daemons_size(), kDaemonsMax),
                              CheckCount("cluster: jobs", message.jobs_size(), kJobsMax)}) {
    if (!status.ok()) return status;
  }
  ClusterStatus value;
  value.version = FromProto(message.version());
  value.coordinator = message.coordinator();
  for (const v1::DaemonEntry& in : message.daemons()) {
    absl::StatusOr<DaemonEntry> daemon = FromProto(in);
    if (!daemon.ok()) return daemon.status();
    value.daemons.push_back(*std::move(daemon));
  }
  for (const v1::JobEntry& job : message.jobs()) {
    value.jobs.push_back({job.job_id(), job.name(), job.incarnation(), job.epoch(),
                          job.world_size(), job.items(), job.daemon(), job.orphaned(),
                          job.imbalance()});
  }
  return value;
}

}  // namespace muond
