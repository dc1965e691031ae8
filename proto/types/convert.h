// Where protobuf ends: values to messages and back. Only the .cc files, the stubs and the services
// see the messages. FromProto checks every count before it allocates, then validates; its errors
// are INVALID_ARGUMENT with the numbers. Threads: pure functions.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/types/coordinator_calls.h"
#include "proto/types/daemon_calls.h"
#include "proto/types/manifest.h"
#include "proto/types/plan.h"

namespace muond::v1 {
class AttachResponse;
class CreateJobRequest;
class CreateJobResponse;
class Device;
class FetchStateRequest;
class GetClusterResponse;
class GetStatusResponse;
class HeartbeatRequest;
class JobManifest;
class JoinRequest;
class JoinResponse;
class Plan;
class ProtocolVersion;
class OfferRanksRequest;
class OfferRanksResponse;
class RankManifest;
class RegisterDaemonRequest;
class StateChunk;
}  // namespace muond::v1

namespace muond {

void ToProto(const ProtocolVersion& value, v1::ProtocolVersion* message);
ProtocolVersion FromProto(const v1::ProtocolVersion& message);

void ToProto(const Manifest& value, v1::JobManifest* message);
absl::StatusOr<Manifest> FromProto(const v1::JobManifest& message);

void ToProto(const RankManifest& value, v1::RankManifest* message);
// Counts and enums only: Validate(manifest, rank) needs the manifest and is called by whoever has
// it.
absl::StatusOr<RankManifest> FromProto(const v1::RankManifest& message);

void ToProto(const DeviceSpec& value, v1::Device* message);
absl::StatusOr<DeviceSpec> FromProto(const v1::Device& message);

void ToProto(const Plan& value, v1::Plan* message);
// Counts, enums and owners; Validate(manifest, plan) needs the manifest.
absl::StatusOr<Plan> FromProto(const v1::Plan& message);

// Calls of the daemon.
void ToProto(const JoinCall& value, v1::JoinRequest* message);
absl::StatusOr<JoinCall> FromProto(const v1::JoinRequest& message);
void ToProto(const JoinReply& value, v1::JoinResponse* message);
JoinReply FromProto(const v1::JoinResponse& message);
void ToProto(const AttachReply& value, v1::AttachResponse* message);
absl::StatusOr<AttachReply> FromProto(const v1::AttachResponse& message);
void ToProto(const FetchStateCall& value, v1::FetchStateRequest* message);
absl::StatusOr<FetchStateCall> FromProto(const v1::FetchStateRequest& message);
void ToProto(const StateChunk& value, v1::StateChunk* message);
absl::StatusOr<StateChunk> FromProto(const v1::StateChunk& message);
void ToProto(const DaemonStatus& value, v1::GetStatusResponse* message);
absl::StatusOr<DaemonStatus> FromProto(const v1::GetStatusResponse& message);

// Calls of the coordinator.
void ToProto(const RegisterCall& value, v1::RegisterDaemonRequest* message);
absl::StatusOr<RegisterCall> FromProto(const v1::RegisterDaemonRequest& message);
void ToProto(const HeartbeatCall& value, v1::HeartbeatRequest* message);
absl::StatusOr<HeartbeatCall> FromProto(const v1::HeartbeatRequest& message);
void ToProto(const CreateJobCall& value, v1::CreateJobRequest* message);
absl::StatusOr<CreateJobCall> FromProto(const v1::CreateJobRequest& message);
void ToProto(const OfferCall& value, v1::OfferRanksRequest* message);
absl::StatusOr<OfferCall> FromProto(const v1::OfferRanksRequest& message);
void ToProto(const OfferReply& value, v1::OfferRanksResponse* message);
absl::StatusOr<OfferReply> FromProto(const v1::OfferRanksResponse& message);
void ToProto(const CreateJobReply& value, v1::CreateJobResponse* message);
absl::StatusOr<CreateJobReply> FromProto(const v1::CreateJobResponse& message);
void ToProto(const ClusterStatus& value, v1::GetClusterResponse* message);
absl::StatusOr<ClusterStatus> FromProto(const v1::GetClusterResponse& message);

// The manifest's and the plan's bytes for a store or a kept page, and back; DATA_LOSS when they do
// not parse.
std::string Serialize(const Manifest& manifest);
absl::StatusOr<Manifest> ParseManifest(std::string_view bytes);
std::string Serialize(const RankManifest& rank);
absl::StatusOr<RankManifest> ParseRankManifest(std::string_view bytes);
std::string Serialize(const Plan& plan);
absl::StatusOr<Plan> ParsePlan(std::string_view bytes);
std::string Serialize(const DaemonEntry& entry);
absl::StatusOr<DaemonEntry> ParseDaemonEntry(std::string_view bytes);

}  // namespace muond
