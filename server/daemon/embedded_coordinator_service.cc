#include <grpcpp/impl/service_type.h>

#include "absl/time/clock.h"
#include "server/coordinator/coordinator_service.h"
#include "server/daemon/embedded_coordinator.h"
#include "server/observe/log.h"

namespace muond {

absl::StatusOr<std::unique_ptr<EmbeddedCoordinator>> EmbeddedCoordinator::Open(
    const std::string& path, bool jobs_run) {
  const auto open = [](absl::StatusOr<std::unique_ptr<Store>> store)
      -> absl::StatusOr<std::unique_ptr<Coordinator>> {
    if (!store.ok()) return store.status();
    return Coordinator::Create(*std::move(store), CoordinatorOptions{}, absl::Now());
  };
  auto coordinator = open(OpenSqliteStore(path));
  if (!coordinator.ok() && jobs_run) {
    Log(Severity::kError, "coordinator.store_lost", {{"error", coordinator.status()}});
    coordinator = open(CreateMemoryStore());
  }
  if (!coordinator.ok()) return coordinator.status();
  return std::unique_ptr<EmbeddedCoordinator>(new EmbeddedCoordinator(*std::move(coordinator)));
}

EmbeddedCoordinator::EmbeddedCoordinator(std::unique_ptr<Coordinator> coordinator)
    : coordinator_(std::move(coordinator)),
      service_(CreateCoordinatorService(coordinator_.get())) {}
EmbeddedCoordinator::~EmbeddedCoordinator() = default;

absl::StatusOr<RegisterReply> EmbeddedCoordinator::Register(const RegisterCall& call) {
  return coordinator_->Register(call, absl::Now());
}

absl::StatusOr<HeartbeatReply> EmbeddedCoordinator::Heartbeat(const HeartbeatCall& call) {
  return coordinator_->Heartbeat(call, absl::Now());
}

absl::StatusOr<CreateJobReply> EmbeddedCoordinator::CreateJob(const CreateJobCall& call) {
  return coordinator_->CreateJob(call, absl::Now());
}

absl::StatusOr<OfferReply> EmbeddedCoordinator::OfferRanks(const OfferCall& call) {
  return coordinator_->OfferRanks(call, absl::Now());
}

absl::Status EmbeddedCoordinator::EndJob(uint64_t job, const std::string& reason) {
  return coordinator_->EndJob(job, reason);
}

std::vector<grpc::Service*> EmbeddedCoordinator::services() { return {service_.get()}; }

}  // namespace muond
