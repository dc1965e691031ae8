#include "proto/types/convert.h"

#include <string>

#include "absl/strings/str_format.h"
#include "muond/v1/coordinator.pb.h"
#include "muond/v1/types.pb.h"
#include "proto/types/convert_internal.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;
using convert::CheckCount;
using convert::EnumWithin;

void ToProto(const GroupSpec& value, v1::Group* message) {
  message->set_name(value.name);
  message->set_rule(static_cast<v1::Rule>(value.rule));
  message->set_table(value.table);
  for (const Coefficients& row : value.custom_steps) {
    v1::Coefficients* out = message->add_custom_steps();
    out->set_a(row.a);
    out->set_b(row.b);
    out->set_c(row.c);
  }
  message->set_steps(value.steps);
  message->set_update_scale(static_cast<v1::UpdateScale>(value.update_scale));
}

absl::Status FromProto(const v1::Group& message, GroupSpec* value) {
  if (absl::Status status =
          CheckCount("group: custom steps", message.custom_steps_size(), kNewtonSchulzStepsMax);
      !status.ok()) {
    return status;
  }
  value->name = message.name();
  value->rule = EnumWithin<Rule>(message.rule());
  value->table = message.table();
  for (const v1::Coefficients& row : message.custom_steps())
    value->custom_steps.push_back({row.a(), row.b(), row.c()});
  value->steps = message.steps();
  value->update_scale = EnumWithin<UpdateScale>(message.update_scale());
  return absl::OkStatus();
}

void ToProto(const TensorSpec& value, v1::Tensor* message) {
  message->set_name(value.name);
  message->mutable_shape()->Add(value.shape.begin(), value.shape.end());
  message->set_parameter_type(static_cast<v1::ElementType>(value.parameter_type));
  message->set_gradient_type(static_cast<v1::ElementType>(value.gradient_type));
  message->set_group(value.group);
  message->set_row_dims(value.row_dims);
  message->mutable_matrix_rows()->Add(value.matrix_rows.begin(), value.matrix_rows.end());
  message->set_bucket(value.bucket);
}

absl::Status FromProto(const v1::Tensor& message, TensorSpec* value) {
  for (absl::Status status :
       {CheckCount("tensor: dimensions", message.shape_size(), kDimsMax),
        CheckCount("tensor: matrices", message.matrix_rows_size(), kMatricesPerTensorMax),
        CheckCount("tensor: bytes of its name", static_cast<int64_t>(message.name().size()),
                   kTensorNameBytesMax)}) {
    if (!status.ok()) return status;
  }
  value->name = message.name();
  value->shape.assign(message.shape().begin(), message.shape().end());
  value->parameter_type = EnumWithin<DType>(message.parameter_type());
  value->gradient_type = EnumWithin<DType>(message.gradient_type());
  value->group = message.group();
  value->row_dims = message.row_dims();
  value->matrix_rows.assign(message.matrix_rows().begin(), message.matrix_rows().end());
  value->bucket = message.bucket();
  return absl::OkStatus();
}

void ToProto(const ShardSpec& value, v1::Block* message) {
  message->set_tensor(value.tensor);
  message->mutable_offset()->Add(value.offset.begin(), value.offset.end());
  message->mutable_extent()->Add(value.extent.begin(), value.extent.end());
  message->set_replica_kind(static_cast<v1::ReplicaKind>(value.replica_kind));
  message->set_replica(value.replica);
  message->set_replicas(value.replicas);
  message->set_divisor(value.divisor);
}

absl::Status FromProto(const v1::Block& message, ShardSpec* value) {
  for (absl::Status status : {CheckCount("block: offsets", message.offset_size(), kDimsMax),
                              CheckCount("block: extents", message.extent_size(), kDimsMax)}) {
    if (!status.ok()) return status;
  }
  value->tensor = message.tensor();
  value->offset.assign(message.offset().begin(), message.offset().end());
  value->extent.assign(message.extent().begin(), message.extent().end());
  value->replica_kind = EnumWithin<ReplicaKind>(message.replica_kind());
  value->replica = message.replica();
  value->replicas = message.replicas();
  value->divisor = message.divisor();
  return absl::OkStatus();
}

template <typename Value, typename Message>
absl::StatusOr<Value> Parse(std::string_view bytes, const char* what) {
  Message message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return absl::DataLossError(StrFormat("%s of %d bytes does not parse", what, bytes.size()));
  }
  return muond::FromProto(message);
}

template <typename Message, typename Value>
std::string ToBytes(const Value& value) {
  Message message;
  ToProto(value, &message);
  return message.SerializeAsString();
}

}  // namespace

void ToProto(const ProtocolVersion& value, v1::ProtocolVersion* message) {
  message->set_major(value.major_number);
  message->set_minor(value.minor_number);
  message->set_build(value.build);
}

ProtocolVersion FromProto(const v1::ProtocolVersion& message) {
  return {message.major(), message.minor(), message.build().substr(0, 128)};
}

void ToProto(const Manifest& value, v1::JobManifest* message) {
  message->Clear();
  message->set_job(value.job);
  message->set_world_size(value.world_size);
  for (const GroupSpec& group : value.groups) ToProto(group, message->add_groups());
  for (const TensorSpec& tensor : value.tensors) ToProto(tensor, message->add_tensors());
  message->set_buckets(value.buckets);
}

absl::StatusOr<Manifest> FromProto(const v1::JobManifest& message) {
  for (absl::Status status :
       {CheckCount("manifest: bytes of the job's name", static_cast<int64_t>(message.job().size()),
                   kJobNameBytesMax),
        CheckCount("manifest: groups", message.groups_size(), kGroupsMax),
        CheckCount("manifest: tensors", message.tensors_size(), kTensorsMax)}) {
    if (!status.ok()) return status;
  }
  Manifest value;
  value.job = message.job();
  value.world_size = message.world_size();
  value.buckets = message.buckets();
  value.groups.resize(static_cast<size_t>(message.groups_size()));
  for (int i = 0; i < message.groups_size(); ++i) {
    if (absl::Status status = FromProto(message.groups(i), &value.groups[static_cast<size_t>(i)]);
        !status.ok()) {
      return status;
    }
  }
  value.tensors.resize(static_cast<size_t>(message.tensors_size()));
  for (int i = 0; i < message.tensors_size(); ++i) {
    if (absl::Status status = FromProto(message.tensors(i), &value.tensors[static_cast<size_t>(i)]);
        !status.ok()) {
      return status;
    }
  }
  if (absl::Status status = Validate(value); !status.ok()) return status;
  return value;
}

void ToProto(const RankManifest& value, v1::RankManifest* message) {
  message->Clear();
  message->set_rank(value.rank);
  for (const ShardSpec& shard : value.shards) ToProto(shard, message->add_blocks());
  message->set_device_uuid(value.device_uuid);
}

absl::StatusOr<RankManifest> FromProto(const v1::RankManifest& message) {
  if (absl::Status status = CheckCount(StrFormat("rank %d: blocks", message.rank()),
                                       message.blocks_size(), kBlocksPerRankMax);
      !status.ok()) {
    return status;
  }
  RankManifest value;
  value.rank = message.rank();
  value.device_uuid = message.device_uuid();
  value.shards.resize(static_cast<size_t>(message.blocks_size()));
  for (int i = 0; i < message.blocks_size(); ++i) {
    if (absl::Status status = FromProto(message.blocks(i), &value.shards[static_cast<size_t>(i)]);
        !status.ok()) {
      return status;
    }
  }
  return value;
}

void ToProto(const DeviceSpec& value, v1::Device* message) {
  message->set_daemon(value.daemon);
  message->set_ordinal(value.ordinal);
  message->set_uuid(value.uuid);
  message->set_name(value.name);
  message->set_architecture(value.architecture);
  message->set_memory_bytes(value.memory_bytes);
  message->set_memory_free_bytes(value.memory_free_bytes);
}

absl::StatusOr<DeviceSpec> FromProto(const v1::Device& message) {
  DeviceSpec value{message.daemon(),
                   message.ordinal(),
                   message.uuid(),
                   message.name(),
                   message.architecture(),
                   message.memory_bytes(),
                   message.memory_free_bytes()};
  if (absl::Status status = Validate(value); !status.ok()) return status;
  return value;
}

void ToProto(const Plan& value, v1::Plan* message) {
  message->Clear();
  message->set_epoch(value.epoch);
  for (const DeviceSpec& device : value.devices) ToProto(device, message->add_devices());
  for (const PlanItem& item : value.items) {
    v1::PlanItem* out = message->add_items();
    out->set_rule(static_cast<v1::Rule>(item.rule));
    out->set_owner(item.owner);
    for (const Segment& segment : item.segments) {
      v1::Segment* run = out->add_segments();
      run->set_tensor(segment.tensor);
      run->set_row_begin(segment.row_begin);
      run->set_row_end(segment.row_end);
    }
    out->set_cost_seconds(item.cost_seconds);
  }
  message->mutable_device_cost_seconds()->Add(value.device_cost_seconds.begin(),
                                              value.device_cost_seconds.end());
  message->set_imbalance(value.imbalance);
  message->set_reason(value.reason);
}

absl::StatusOr<Plan> FromProto(const v1::Plan& message) {
  for (absl::Status status :
       {CheckCount("plan: devices", message.devices_size(), kDevicesMax),
        CheckCount("plan: items", message.items_size(), kItemsMax),
        CheckCount("plan: device costs", message.device_cost_seconds_size(), kDevicesMax)}) {
    if (!status.ok()) return status;
  }
  Plan value;
  value.epoch = message.epoch();
  for (const v1::Device& device : message.devices()) {
    absl::StatusOr<DeviceSpec> spec = FromProto(device);
    if (!spec.ok()) return spec.status();
    value.devices.push_back(*std::move(spec));
  }
  int64_t segments = 0;
  value.items.reserve(static_cast<size_t>(message.items_size()));
  for (const v1::PlanItem& in : message.items()) {
    segments += in.segments_size();
    if (absl::Status status = CheckCount("plan: segments", segments, kSegmentsMax); !status.ok())
      return status;
    if (in.owner() < 0 || in.owner() >= message.devices_size()) {
      return InvalidArgumentError(StrFormat("plan: item %d has owner %d, there are %d devices",
                                            value.items.size(), in.owner(),
                                            message.devices_size()));
    }
    PlanItem item;
    item.rule = EnumWithin<Rule>(in.rule());
    item.owner = in.owner();
    item.cost_seconds = in.cost_seconds();
    item.segments.reserve(static_cast<size_t>(in.segments_size()));
    for (const v1::Segment& run : in.segments())
      item.segments.push_back({run.tensor(), run.row_begin(), run.row_end()});
    value.items.push_back(std::move(item));
  }
  value.device_cost_seconds.assign(message.device_cost_seconds().begin(),
                                   message.device_cost_seconds().end());
  value.imbalance = message.imbalance();
  value.reason = message.reason();
  return value;
}

std::string Serialize(const Manifest& manifest) { return ToBytes<v1::JobManifest>(manifest); }
absl::StatusOr<Manifest> ParseManifest(std::string_view bytes) {
  return Parse<Manifest, v1::JobManifest>(bytes, "manifest");
}
std::string Serialize(const RankManifest& rank) { return ToBytes<v1::RankManifest>(rank); }
absl::StatusOr<RankManifest> ParseRankManifest(std::string_view bytes) {
  return Parse<RankManifest, v1::RankManifest>(bytes, "rank manifest");
}
std::string Serialize(const Plan& plan) { return ToBytes<v1::Plan>(plan); }
absl::StatusOr<Plan> ParsePlan(std::string_view bytes) {
  return Parse<Plan, v1::Plan>(bytes, "plan");
}

}  // namespace muond
