#include "proto/stubs/coordinator_stub.h"

#include <utility>

#include "muond/v1/coordinator.grpc.pb.h"
#include "proto/stubs/fleet.h"
#include "proto/types/convert.h"

namespace muond {

struct CoordinatorStub::Impl : Fleet<v1::Coordinator> {};

CoordinatorStub::CoordinatorStub(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorStub::~CoordinatorStub() = default;

absl::StatusOr<std::unique_ptr<CoordinatorStub>> CoordinatorStub::Create(
    std::string_view endpoint, const StubOptions& options) {
  auto impl = std::make_unique<Impl>();
  if (absl::Status status = impl->Open(endpoint, "the coordinator", options); !status.ok())
    return status;
  return std::unique_ptr<CoordinatorStub>(new CoordinatorStub(std::move(impl)));
}

const std::string& CoordinatorStub::endpoint() const { return impl_->peer.endpoint; }
std::string CoordinatorStub::answering() const { return impl_->answering(); }

absl::StatusOr<RegisterReply> CoordinatorStub::Register(const RegisterCall& call,
                                                        absl::Duration timeout) {
  v1::RegisterDaemonRequest request;
  ToProto(call, &request);
  ToProto(impl_->peer.options.version, request.mutable_version());
  v1::RegisterDaemonResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Coordinator::Stub::RegisterDaemon, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  const ProtocolVersion theirs = FromProto(response.version());
  if (absl::Status status = impl_->CheckPeer(theirs); !status.ok()) return status;
  return RegisterReply{theirs, response.daemon(), response.lease_ms()};
}

absl::StatusOr<HeartbeatReply> CoordinatorStub::Heartbeat(const HeartbeatCall& call,
                                                          absl::Duration timeout) {
  v1::HeartbeatRequest request;
  ToProto(call, &request);
  v1::HeartbeatResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Coordinator::Stub::Heartbeat, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return HeartbeatReply{response.newest_epoch()};
}

absl::StatusOr<CreateJobReply> CoordinatorStub::CreateJob(const CreateJobCall& call,
                                                          absl::Duration timeout) {
  v1::CreateJobRequest request;
  ToProto(call, &request);
  v1::CreateJobResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Coordinator::Stub::CreateJob, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  absl::StatusOr<CreateJobReply> reply = FromProto(response);
  if (!reply.ok()) return reply.status();
  if (absl::Status status = Validate(call.manifest, reply->plan); !status.ok()) return status;
  return reply;
}

absl::StatusOr<OfferReply> CoordinatorStub::OfferRanks(const OfferCall& call,
                                                       absl::Duration timeout) {
  v1::OfferRanksRequest request;
  ToProto(call, &request);
  v1::OfferRanksResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Coordinator::Stub::OfferRanks, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return FromProto(response);
}

absl::StatusOr<Plan> CoordinatorStub::GetPlan(uint64_t job, uint64_t epoch,
                                              absl::Duration timeout) {
  v1::GetPlanRequest request;
  request.set_job_id(job);
  request.set_epoch(epoch);
  v1::GetPlanResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Coordinator::Stub::GetPlan, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return FromProto(response.plan());
}

absl::Status CoordinatorStub::EndJob(uint64_t job, const std::string& reason,
                                     absl::Duration timeout) {
  v1::EndJobRequest request;
  request.set_job_id(job);
  request.set_reason(reason);
  v1::EndJobResponse response;
  return impl_->Call(&v1::Coordinator::Stub::EndJob, request, &response, timeout);
}

absl::StatusOr<ClusterStatus> CoordinatorStub::GetCluster(absl::Duration timeout) {
  v1::GetClusterResponse response;
  if (absl::Status status = impl_->Call(&v1::Coordinator::Stub::GetCluster, v1::GetClusterRequest(),
                                        &response, timeout);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = impl_->CheckPeer(FromProto(response.version())); !status.ok())
    return status;
  return FromProto(response);
}

}  // namespace muond
