// StepLoop: the one thread that owns the daemon's state. It polls the carrier, the mailbox (commands of the gRPC door,
// completions of device streams) and the keeper, and joins the rooms of the river: session, gather, schedule, execute, state,
// scatter.
//
// Threads: Create and Run on one thread; DaemonCommands and Stop from any.
// Lifetime: everything in the options that is a pointer outlives the loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/backend.h"
#include "proto/carrier/carrier.h"
#include "proto/carrier/shard_carrier.h"
#include "server/daemon/commands.h"
#include "server/daemon/plan_source.h"
#include "server/daemon/slab_vault.h"
#include "server/observe/metrics.h"

namespace muond {

struct StepLoopOptions {
  Backend* backend = nullptr;
  std::function<absl::StatusOr<std::unique_ptr<Ops>>(Device&)> make_ops;
  std::unique_ptr<Carrier> carrier;  // listening
  // To the other daemons of a job; null: jobs whose ranks are at several daemons are refused.
  std::unique_ptr<ShardCarrier> shards;
  absl::Duration peer_timeout = absl::Seconds(30);  // a daemon that is silent for longer is lost
  SlabVault* vault = nullptr;
  PlanSource* plans = nullptr;
  Metrics* metrics = nullptr;  // may be null
  std::string daemon;  // this daemon's id with the coordinator: whose devices of a plan are ours
  // How long state and parameters of a job without ranks stay.
  absl::Duration job_lease = absl::Minutes(10);
  // How long the loop looks for something to do before it sleeps, at most (spin_window.h). Zero: it sleeps at once.
  absl::Duration spin;
  uint64_t workspace_bytes = 0;  // of each device, at least; 0: what the devices want
  // A fail point is configured (server/observe/fail_point.h): passages on device streams are enqueued too.
  bool fail_points = false;
  // Called on the loop's thread each time the last job has gone (never before there was one): a standalone daemon ends then.
  absl::AnyInvocable<void()> on_last_job_gone;
};

class StepLoop : public DaemonCommands {
 public:
  // Takes over what the vault kept from a predecessor; steps that had a verdict go on where they were.
  static absl::StatusOr<std::unique_ptr<StepLoop>> Create(StepLoopOptions options);

  // Until Stop. UNAVAILABLE when the keeper is gone. Commands that are left are answered UNAVAILABLE.
  virtual absl::Status Run() = 0;
  virtual void Stop() = 0;
};

}  // namespace muond
