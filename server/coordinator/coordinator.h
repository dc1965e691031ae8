// Coordinator: membership, the catalogue of jobs, ownership plans by epoch. A plain class: the daemon runs one inside
// itself, muond-coordinator serves one by gRPC.
// Threads: safe from any thread; a call that plans holds only other planning back. Nothing is waited for.
// Errors:  as the calls say; whatever was refused changed nothing, and whatever was granted is in the store.
// Lifetime: a daemon that stays silent for its lease is gone; its jobs stay for `orphan_lease`, so that it, or its
//          successor under the same id, can go on with them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "proto/planner/planner.h"
#include "proto/types/coordinator_calls.h"
#include "server/coordinator/job_records.h"
#include "server/coordinator/membership.h"
#include "server/coordinator/offer_board.h"
#include "server/coordinator/store.h"

namespace muond {

struct CoordinatorOptions {
  absl::Duration lease = absl::Seconds(10);
  absl::Duration orphan_lease = absl::Hours(1);
  CostModels models;
  std::function<void(absl::Duration took)> planned = [](absl::Duration) {};  // after each plan
  std::function<uint64_t()> mint;  // random 64-bit numbers; empty: the system's
};

class Coordinator {
 public:
  // Takes up what the store holds: jobs and plans as they were, daemons as if they had just been heard.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Create(std::unique_ptr<Store> store,
                                                             CoordinatorOptions options,
                                                             absl::Time now);

  // A daemon that names its old id keeps it; when its devices are others than before, its jobs get new plans. Jobs of it that
  // it says it does not hold have ended.
  absl::StatusOr<RegisterReply> Register(const RegisterCall& call, absl::Time now);
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call, absl::Time now);
  // Plans over the devices of the asking daemon. ALREADY_EXISTS names the running job; NOT_FOUND: no such daemon;
  // FAILED_PRECONDITION: it drains, or the adopted job had another manifest; RESOURCE_EXHAUSTED: no room.
  absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call, absl::Time now);
  // The same for a job whose ranks wait at several daemons, over the devices of all of them: the answer to all that offered.
  absl::StatusOr<OfferReply> OfferRanks(const OfferCall& call, absl::Time now);
  absl::StatusOr<std::shared_ptr<const Plan>> GetPlan(uint64_t job,
                                                      uint64_t epoch);  // 0: the newest
  absl::Status EndJob(uint64_t job, const std::string& reason);
  ClusterStatus GetCluster(absl::Time now);

  void Expire(absl::Time now);  // leases that ran out: to be called now and then

 private:
  Coordinator(std::unique_ptr<Store> store, CoordinatorOptions options);

  absl::Status Load(absl::Time now);
  absl::StatusOr<Planned> MakeTimedPlan(const PlannerInput& request);
  std::string MintDaemon();
  std::vector<uint64_t> NotHeld(const std::string& daemon, const RegisterCall& call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t MintJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Checks `call` against the catalogue; the record that it continues or replaces.
  absl::StatusOr<JobRecord> Admit(const CreateJobCall& call, absl::Time now,
                                  std::vector<uint64_t>* replaced)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<CreateJobReply> Create(const CreateJobCall& call,
                                        const std::vector<std::string>& daemons, absl::Time now)
      ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<OfferReply> CreateOffered(const OfferBoard::Whole& whole, absl::Time now);
  absl::Status Replan(const std::string& daemon) ABSL_LOCKS_EXCLUDED(mutex_);
  void ExpireLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::unique_ptr<Store> store_;
  const CoordinatorOptions options_;
  absl::Mutex planning_ ABSL_ACQUIRED_BEFORE(mutex_);  // one plan at a time
  absl::Mutex mutex_;
  Membership members_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, JobRecord> jobs_ ABSL_GUARDED_BY(mutex_);
  OfferBoard offers_ ABSL_GUARDED_BY(mutex_);
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace muond
