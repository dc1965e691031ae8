#include "server/coordinator/seat_service.h"

#include <grpcpp/server_context.h>

#include <utility>

#include "muond/v1/coordinator.grpc.pb.h"
#include "proto/stubs/grpc_status.h"
#include "server/coordinator/coordinator_service.h"

namespace muond {
namespace {

class SeatService final : public v1::Coordinator::Service {
 public:
  SeatService(LateSeat* seat, CallObserver called) : seat_(*seat), called_(std::move(called)) {}

  grpc::Status RegisterDaemon(grpc::ServerContext* context,
                              const v1::RegisterDaemonRequest* request,
                              v1::RegisterDaemonResponse* response) override {
    return Pass("RegisterDaemon", &Service::RegisterDaemon, context, request, response);
  }
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest* request,
                         v1::HeartbeatResponse* response) override {
    return Pass("Heartbeat", &Service::Heartbeat, context, request, response);
  }
  grpc::Status CreateJob(grpc::ServerContext* context, const v1::CreateJobRequest* request,
                         v1::CreateJobResponse* response) override {
    return Pass("CreateJob", &Service::CreateJob, context, request, response);
  }
  grpc::Status OfferRanks(grpc::ServerContext* context, const v1::OfferRanksRequest* request,
                          v1::OfferRanksResponse* response) override {
    return Pass("OfferRanks", &Service::OfferRanks, context, request, response);
  }
  grpc::Status GetPlan(grpc::ServerContext* context, const v1::GetPlanRequest* request,
                       v1::GetPlanResponse* response) override {
    return Pass("GetPlan", &Service::GetPlan, context, request, response);
  }
  grpc::Status EndJob(grpc::ServerContext* context, const v1::EndJobRequest* request,
                      v1::EndJobResponse* response) override {
    return Pass("EndJob", &Service::EndJob, context, request, response);
  }
  grpc::Status GetCluster(grpc::ServerContext* context, const v1::GetClusterRequest* request,
                          v1::GetClusterResponse* response) override {
    const grpc::Status status =
        Pass("GetCluster", &Service::GetCluster, context, request, response);
    if (status.ok()) response->set_coordinator(seat_.get()->endpoint());
    return status;
  }

 private:
  template <typename Request, typename Response>
  using Method = grpc::Status (v1::Coordinator::Service::*)(grpc::ServerContext*, const Request*,
                                                            Response*);

  template <typename Request, typename Response>
  grpc::Status Pass(const char* call, Method<Request, Response> method,
                    grpc::ServerContext* context, const Request* request, Response* response) {
    const grpc::Status status = Answer(method, context, request, response);
    called_(call, FromGrpc(status));
    return status;
  }

  template <typename Request, typename Response>
  grpc::Status Answer(Method<Request, Response> method, grpc::ServerContext* context,
                      const Request* request, Response* response) {
    Seat* const seat = seat_.get();
    if (seat == nullptr) return ToGrpc(absl::UnavailableError("the coordinator is starting"));
    const auto coordinator = seat->Sit();
    if (!coordinator.ok()) return ToGrpc(coordinator.status());
    const std::unique_ptr<grpc::Service> service = CreateCoordinatorService(coordinator->get());
    auto& calls = static_cast<v1::Coordinator::Service&>(*service);
    const grpc::Status status = (calls.*method)(context, request, response);
    if (!status.ok()) return status;
    return ToGrpc(seat->Still(*coordinator));
  }

  LateSeat& seat_;
  const CallObserver called_;
};

}  // namespace

std::unique_ptr<grpc::Service> CreateSeatService(LateSeat* seat, CallObserver called) {
  return std::make_unique<SeatService>(seat, std::move(called));
}

}  // namespace muond
