#include <string>

#include "absl/strings/str_format.h"
#include "muond/v1/daemon.pb.h"
#include "proto/types/convert.h"
#include "proto/types/convert_internal.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;
using convert::CheckCount;

absl::StatusOr<StateField> FieldFrom(int number) {
  if (number < static_cast<int>(StateField::kMomentum) ||
      number > static_cast<int>(StateField::kParameter)) {
    return InvalidArgumentError(StrFormat("unknown state field %d", number));
  }
  return static_cast<StateField>(number);
}

void ToProto(const JobStatus& value, v1::JobStatus* message) {
  message->set_job_id(value.job);
  message->set_name(value.name);
  message->set_incarnation(value.incarnation);
  message->set_epoch(value.epoch);
  message->set_step(value.step);
  message->set_matrices(value.matrices);
  message->set_items(value.items);
  message->set_parameters(value.parameters);
  for (const RankStatus& rank : value.ranks) {
    v1::RankStatus* out = message->add_ranks();
    out->set_rank(rank.rank);
    out->set_pid(rank.pid);
    out->set_state(rank.state);
  }
  for (const PhaseStatus& phase : value.phases) {
    v1::PhaseStatus* out = message->add_phases();
    out->set_phase(phase.phase);
    out->set_seconds_median(phase.seconds_median);
    out->set_seconds_last(phase.seconds_last);
  }
  message->set_state_bytes(value.state_bytes);
  message->set_slab_bytes(value.slab_bytes);
  message->set_state(value.state);
  message->set_void_step(value.void_step);
  message->set_void_text(value.void_text);
}

JobStatus FromProto(const v1::JobStatus& message) {
  JobStatus value;
  value.job = message.job_id();
  value.name = message.name();
  value.incarnation = message.incarnation();
  value.epoch = message.epoch();
  value.step = message.step();
  value.matrices = message.matrices();
  value.items = message.items();
  value.parameters = message.parameters();
  for (const v1::RankStatus& rank : message.ranks())
    value.ranks.push_back({rank.rank(), rank.pid(), rank.state()});
  for (const v1::PhaseStatus& phase : message.phases()) {
    value.phases.push_back({phase.phase(), phase.seconds_median(), phase.seconds_last()});
  }
  value.state_bytes = message.state_bytes();
  value.slab_bytes = message.slab_bytes();
  value.state = message.state();
  value.void_step = message.void_step();
  value.void_text = message.void_text();
  return value;
}

}  // namespace

void ToProto(const JoinCall& value, v1::JoinRequest* message) {
  ToProto(value.version, message->mutable_version());
  ToProto(value.manifest, message->mutable_manifest());
  ToProto(value.rank, message->mutable_rank());
  message->set_resume(static_cast<v1::JoinRequest::Resume>(value.resume));
  message->set_token(value.token);
  message->set_seat(value.seat);
  message->set_attempt(value.attempt);
  message->set_wait_ms(value.wait_ms);
}

absl::StatusOr<JoinCall> FromProto(const v1::JoinRequest& message) {
  if (absl::Status status = CheckCount("join: bytes of the token",
                                       static_cast<int64_t>(message.token().size()), kTextBytesMax);
      !status.ok()) {
    return status;
  }
  if (message.resume() != v1::JoinRequest::RESUME_FRESH &&
      message.resume() != v1::JoinRequest::RESUME_ADOPT) {
    return InvalidArgumentError(
        StrFormat("join: unknown resume %d", static_cast<int>(message.resume())));
  }
  JoinCall value;
  value.version = FromProto(message.version());
  absl::StatusOr<Manifest> manifest = FromProto(message.manifest());
  if (!manifest.ok()) return manifest.status();
  value.manifest = *std::move(manifest);
  absl::StatusOr<RankManifest> rank = FromProto(message.rank());
  if (!rank.ok()) return rank.status();
  value.rank = *std::move(rank);
  if (absl::Status status = Validate(value.manifest, value.rank); !status.ok()) return status;
  value.resume = static_cast<Resume>(message.resume());
  value.token = message.token();
  value.seat = message.seat();
  value.attempt = message.attempt();
  value.wait_ms = message.wait_ms();
  return value;
}

void ToProto(const JoinReply& value, v1::JoinResponse* message) {
  ToProto(value.version, message->mutable_version());
  message->set_job_id(value.job);
  message->set_session(value.session);
  message->set_incarnation(value.incarnation);
  message->set_epoch(value.epoch);
  message->set_last_step(value.last_step);
}

JoinReply FromProto(const v1::JoinResponse& message) {
  JoinReply value;
  value.version = FromProto(message.version());
  value.job = message.job_id();
  value.session = message.session();
  value.incarnation = message.incarnation();
  value.epoch = message.epoch();
  value.last_step = message.last_step();
  return value;
}

void ToProto(const AttachReply& value, v1::AttachResponse* message) {
  message->set_keeper_socket(value.keeper_socket);
  message->set_frame_socket(value.frame_socket);
  message->set_gradient_slab_bytes(value.gradient_slab_bytes);
  message->set_parameter_slab_bytes(value.parameter_slab_bytes);
  message->set_page_bytes(value.page_bytes);
  for (const ShardPlace& place : value.shards) {
    v1::BlockPlace* out = message->add_blocks();
    out->set_block(place.shard);
    out->set_gradient_offset(place.gradient_offset);
    out->set_parameter_offset(place.parameter_offset);
    out->set_push_gradient(place.push_gradient);
  }
  for (const BucketPlan& bucket : value.buckets) {
    v1::BucketPlan* out = message->add_buckets();
    out->mutable_tensors()->Add(bucket.tensors.begin(), bucket.tensors.end());
    out->mutable_items()->Add(bucket.items.begin(), bucket.items.end());
  }
  message->set_items(value.items);
  message->set_epoch(value.epoch);
  message->set_page_blocks_max(value.page_blocks_max);
}

absl::StatusOr<AttachReply> FromProto(const v1::AttachResponse& message) {
  for (absl::Status status :
       {CheckCount("attach: blocks", message.blocks_size(), kBlocksPerRankMax),
        CheckCount("attach: buckets", message.buckets_size(), kBucketsMax),
        CheckCount("attach: items", message.items(), kItemsMax)}) {
    if (!status.ok()) return status;
  }
  if (message.gradient_slab_bytes() > kSlabBytesMax ||
      message.parameter_slab_bytes() > kSlabBytesMax || message.page_bytes() > kPageBytesMax) {
    return InvalidArgumentError(
        StrFormat("attach: slabs of %d and %d bytes, a page of %d; the limits are %d and %d",
                  message.gradient_slab_bytes(), message.parameter_slab_bytes(),
                  message.page_bytes(), kSlabBytesMax, kPageBytesMax));
  }
  AttachReply value;
  value.keeper_socket = message.keeper_socket();
  value.frame_socket = message.frame_socket();
  value.gradient_slab_bytes = message.gradient_slab_bytes();
  value.parameter_slab_bytes = message.parameter_slab_bytes();
  value.page_bytes = message.page_bytes();
  for (const v1::BlockPlace& place : message.blocks()) {
    value.shards.push_back(
        {place.block(), place.gradient_offset(), place.parameter_offset(), place.push_gradient()});
  }
  for (const v1::BucketPlan& bucket : message.buckets()) {
    value.buckets.push_back({{bucket.tensors().begin(), bucket.tensors().end()},
                             {bucket.items().begin(), bucket.items().end()}});
  }
  value.items = message.items();
  value.epoch = message.epoch();
  value.page_blocks_max = message.page_blocks_max();
  return value;
}

void ToProto(const FetchStateCall& value, v1::FetchStateRequest* message) {
  message->set_session(value.session);
  message->mutable_tensors()->Add(value.tensors.begin(), value.tensors.end());
  for (StateField field : value.fields) message->add_fields(static_cast<v1::StateField>(field));
}

absl::StatusOr<FetchStateCall> FromProto(const v1::FetchStateRequest& message) {
  for (absl::Status status : {CheckCount("fetch: tensors", message.tensors_size(), kTensorsMax),
                              CheckCount("fetch: fields", message.fields_size(), 5)}) {
    if (!status.ok()) return status;
  }
  FetchStateCall value;
  value.session = message.session();
  value.tensors.assign(message.tensors().begin(), message.tensors().end());
  for (int number : message.fields()) {
    absl::StatusOr<StateField> field = FieldFrom(number);
    if (!field.ok()) return field.status();
    value.fields.push_back(*field);
  }
  return value;
}

void ToProto(const StateChunk& value, v1::StateChunk* message) {
  message->set_session(value.session);
  message->set_tensor(value.tensor);
  message->set_field(static_cast<v1::StateField>(value.field));
  message->set_offset_bytes(value.offset_bytes);
  message->set_data(value.data);
}

absl::StatusOr<StateChunk> FromProto(const v1::StateChunk& message) {
  absl::StatusOr<StateField> field = FieldFrom(message.field());
  if (!field.ok()) return field.status();
  if (absl::Status status = CheckCount(
          "state chunk: bytes", static_cast<int64_t>(message.data().size()), kStateChunkBytesMax);
      !status.ok()) {
    return status;
  }
  return StateChunk{message.session(), message.tensor(), *field, message.offset_bytes(),
                    message.data()};
}

void ToProto(const DaemonStatus& value, v1::GetStatusResponse* message) {
  ToProto(value.version, message->mutable_version());
  message->set_keeper_pid(value.keeper_pid);
  message->set_stepper_pid(value.stepper_pid);
  message->set_endpoint(value.endpoint);
  message->set_daemon(value.daemon);
  for (const DeviceStatus& device : value.devices) {
    v1::DeviceStatus* out = message->add_devices();
    ToProto(device.device, out->mutable_device());
    out->set_owned_bytes(device.owned_bytes);
    out->set_items(device.items);
    out->set_cost_seconds(device.cost_seconds);
    out->set_busy_share(device.busy_share);
  }
  for (const JobStatus& job : value.jobs) ToProto(job, message->add_jobs());
  message->set_stepper_starts(value.stepper_starts);
  message->set_draining(value.draining);
  message->set_metrics_endpoint(value.metrics_endpoint);
  message->set_uptime_ms(value.uptime_ms);
  message->set_coordinator(value.coordinator);
  message->set_coordinator_silence_ms(value.coordinator_silence_ms);
}

absl::StatusOr<DaemonStatus> FromProto(const v1::GetStatusResponse& message) {
  for (absl::Status status :
       {CheckCount("status: devices", message.devices_size(), kDevicesPerDaemonMax),
        CheckCount("status: jobs", message.jobs_size(), kJobsMax)}) {
    if (!status.ok()) return status;
  }
  DaemonStatus value;
  value.version = FromProto(message.version());
  value.keeper_pid = message.keeper_pid();
  value.stepper_pid = message.stepper_pid();
  value.endpoint = message.endpoint();
  value.daemon = message.daemon();
  for (const v1::DeviceStatus& device : message.devices()) {
    absl::StatusOr<DeviceSpec> spec = FromProto(device.device());
    if (!spec.ok()) return spec.status();
    value.devices.push_back({*std::move(spec), device.owned_bytes(), device.items(),
                             device.cost_seconds(), device.busy_share()});
  }
  for (const v1::JobStatus& job : message.jobs()) value.jobs.push_back(FromProto(job));
  value.stepper_starts = message.stepper_starts();
  value.draining = message.draining();
  value.metrics_endpoint = message.metrics_endpoint();
  value.uptime_ms = message.uptime_ms();
  value.coordinator = message.coordinator();
  value.coordinator_silence_ms = message.coordinator_silence_ms();
  return value;
}

}  // namespace muond
