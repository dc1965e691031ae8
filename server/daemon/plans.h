// Plans: this daemon's tie to its coordinator, the embedded one or one reached by gRPC. It registers, sends heartbeats, and
// asks for plans, all on a thread of its own, so that the StepLoop never waits for a coordinator.
// Threads: the callbacks of source() run on that thread, after Stop on none; the rest from any.
// Errors:  a coordinator that is away costs new jobs (UNAVAILABLE), never a step.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/runtime/backend.h"
#include "proto/stubs/tls_options.h"
#include "proto/types/coordinator_calls.h"
#include "server/daemon/kept_id.h"
#include "server/daemon/plan_source.h"
#include "server/observe/metrics.h"

namespace grpc {
class Service;
}

namespace muond {

// The calls of a coordinator, wherever it is. Blocking; called by one thread at a time.
class CoordinatorLink {
 public:
  virtual ~CoordinatorLink() = default;
  virtual absl::StatusOr<RegisterReply> Register(const RegisterCall& call) = 0;
  virtual absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call) = 0;
  virtual absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call) = 0;
  virtual absl::StatusOr<OfferReply> OfferRanks(const OfferCall& call) = 0;
  virtual absl::Status EndJob(uint64_t job, const std::string& reason) = 0;
  // The endpoint that answered last, of several; empty: as configured.
  virtual std::string answering() { return ""; }
  // What of the coordinator the daemon's own door serves; borrowed, may be empty.
  virtual std::vector<grpc::Service*> services() { return {}; }
};

absl::StatusOr<std::unique_ptr<CoordinatorLink>> ConnectCoordinator(const std::string& endpoint,
                                                                    const TlsOptions& tls);

struct PlansOptions {
  std::unique_ptr<CoordinatorLink> link;
  const Backend* backend = nullptr;  // outlives the plans
  Metrics* metrics = nullptr;        // may be null
  std::string endpoint;              // of this daemon
  std::unique_ptr<KeptId> id;
  std::vector<uint64_t> jobs;  // whose state a dead stepper left: this one holds it
  bool first_start =
      true;  // of the keeper's life: without a coordinator there is nothing to go on with
};

class Plans {
 public:
  // Registers. To a successor that knows its id, a coordinator that is away, or refuses, is no error: a later heartbeat
  // meets it again.
  static absl::StatusOr<std::unique_ptr<Plans>> Open(PlansOptions options);
  virtual ~Plans() = default;  // stops
  virtual PlanSource& source() = 0;
  virtual std::string daemon() const = 0;
  virtual std::string answering() const = 0;  // as CoordinatorLink's
  virtual absl::Duration heartbeat_age() const = 0;
  virtual std::vector<grpc::Service*> services() = 0;
  virtual void SetDraining(bool draining) = 0;
  virtual void Stop() = 0;
};

std::vector<DeviceSpec> DeviceSpecsOf(const Backend& backend, const std::string& daemon);

}  // namespace muond
