// EmbeddedCoordinator: server/coordinator within the daemon: plain calls for this daemon, its gRPC service behind the daemon's
// own door for muonctl and for other daemons. Its catalogue is a SQLite file in the state directory, or in the runtime
// directory, which ends with the daemon.
// Threads: calls by the plans thread; the service by gRPC's.   Errors: server/coordinator's.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/coordinator/coordinator.h"
#include "server/daemon/plans.h"

namespace muond {

class EmbeddedCoordinator final : public CoordinatorLink {
 public:
  // Opens or makes the store `path`. `jobs_run`: a predecessor's jobs go on, so a store that cannot be opened (a full or
  // broken disk) costs the catalogue, loudly, and not the start.
  static absl::StatusOr<std::unique_ptr<EmbeddedCoordinator>> Open(const std::string& path,
                                                                   bool jobs_run);
  ~EmbeddedCoordinator() override;

  absl::StatusOr<RegisterReply> Register(const RegisterCall& call) override;
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call) override;
  absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call) override;
  absl::StatusOr<OfferReply> OfferRanks(const OfferCall& call) override;
  absl::Status EndJob(uint64_t job, const std::string& reason) override;
  std::vector<grpc::Service*> services() override;

 private:
  explicit EmbeddedCoordinator(std::unique_ptr<Coordinator> coordinator);
  const std::unique_ptr<Coordinator> coordinator_;
  const std::unique_ptr<grpc::Service> service_;
};

}  // namespace muond
