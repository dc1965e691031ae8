#include "server/coordinator/coordinator_service.h"

#include <grpcpp/server_context.h>

#include "absl/time/clock.h"
#include "muond/v1/coordinator.grpc.pb.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/convert.h"
#include "server/observe/log.h"

namespace muond {
namespace {

// Peers get what went wrong with their request; what went wrong inside is logged, not told.
grpc::Status Answer(const char* call, const absl::Status& status) {
  if (absl::IsInternal(status) || absl::IsUnknown(status) || absl::IsDataLoss(status)) {
    Log(Severity::kError, "coordinator.call_failed", {{"call", call}, {"error", status}});
    return ToGrpc(absl::InternalError("the coordinator failed; its log has the reason"));
  }
  if (!status.ok())
    Log(Severity::kInfo, "coordinator.call_refused", {{"call", call}, {"error", status}});
  return ToGrpc(status);
}

class CoordinatorService final : public v1::Coordinator::Service {
 public:
  explicit CoordinatorService(Coordinator* coordinator) : coordinator_(*coordinator) {}

  grpc::Status RegisterDaemon(grpc::ServerContext*, const v1::RegisterDaemonRequest* request,
                              v1::RegisterDaemonResponse* response) override {
    const absl::StatusOr<RegisterCall> call = FromProto(*request);
    if (!call.ok()) return Answer("RegisterDaemon", call.status());
    const absl::StatusOr<RegisterReply> reply = coordinator_.Register(*call, absl::Now());
    if (!reply.ok()) return Answer("RegisterDaemon", reply.status());
    ToProto(reply->version, response->mutable_version());
    response->set_daemon(reply->daemon);
    response->set_lease_ms(reply->lease_ms);
    return grpc::Status::OK;
  }

  grpc::Status Heartbeat(grpc::ServerContext*, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    const absl::StatusOr<HeartbeatCall> call = FromProto(*request);
    if (!call.ok()) return Answer("Heartbeat", call.status());
    const absl::StatusOr<HeartbeatReply> reply = coordinator_.Heartbeat(*call, absl::Now());
    if (!reply.ok()) return Answer("Heartbeat", reply.status());
    response->set_newest_epoch(reply->newest_epoch);
    return grpc::Status::OK;
  }

  grpc::Status CreateJob(grpc::ServerContext*, const v1::CreateJobRequest* request,
                         v1::CreateJobResponse* response) override {
    const absl::StatusOr<CreateJobCall> call = FromProto(*request);
    if (!call.ok()) return Answer("CreateJob", call.status());
    const absl::StatusOr<CreateJobReply> reply = coordinator_.CreateJob(*call, absl::Now());
    if (!reply.ok()) return Answer("CreateJob", reply.status());
    ToProto(*reply, response);
    return grpc::Status::OK;
  }

  grpc::Status OfferRanks(grpc::ServerContext*, const v1::OfferRanksRequest* request,
                          v1::OfferRanksResponse* response) override {
    const absl::StatusOr<OfferCall> call = FromProto(*request);
    if (!call.ok()) return Answer("OfferRanks", call.status());
    const absl::StatusOr<OfferReply> reply = coordinator_.OfferRanks(*call, absl::Now());
    if (!reply.ok()) return Answer("OfferRanks", reply.status());
    ToProto(*reply, response);
    return grpc::Status::OK;
  }

  grpc::Status GetPlan(grpc::ServerContext*, const v1::GetPlanRequest* request,
                       v1::GetPlanResponse* response) override {
    const auto plan = coordinator_.GetPlan(request->job_id(), request->epoch());
    if (!plan.ok()) return Answer("GetPlan", plan.status());
    ToProto(**plan, response->mutable_plan());
    return grpc::Status::OK;
  }

  grpc::Status EndJob(grpc::ServerContext*, const v1::EndJobRequest* request,
                      v1::EndJobResponse*) override {
    return Answer("EndJob", coordinator_.EndJob(request->job_id(), request->reason()));
  }

  grpc::Status GetCluster(grpc::ServerContext*, const v1::GetClusterRequest*,
                          v1::GetClusterResponse* response) override {
    ToProto(coordinator_.GetCluster(absl::Now()), response);
    return grpc::Status::OK;
  }

 private:
  Coordinator& coordinator_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateCoordinatorService(Coordinator* coordinator) {
  return std::make_unique<CoordinatorService>(coordinator);
}

}  // namespace muond
