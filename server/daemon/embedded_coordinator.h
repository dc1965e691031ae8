// EmbeddedCoordinator: the coordinator of a daemon that is alone: one member, jobs in memory, plans by proto/planner.
// It ends with its stepper; the jobs' own plans are in kept slabs, so a successor needs nothing of it.
// Threads: one at a time (the plans thread).   Errors: those of proto/planner; ALREADY_EXISTS for a name that is taken.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/daemon/plans.h"

namespace muond {

inline constexpr const char* kEmbeddedDaemon =
    "embedded";  // the daemon's id: equal in every stepper of a keeper

class EmbeddedCoordinator final : public CoordinatorLink {
 public:
  absl::StatusOr<RegisterReply> Register(const RegisterCall& call) override;
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call) override;
  absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call) override;
  absl::Status EndJob(uint64_t job, const std::string& reason) override;

 private:
  struct Entry {
    std::string name;
    uint32_t incarnation = 1;
    uint64_t manifest_digest = 0;
    std::shared_ptr<const Plan> plan;
  };
  std::vector<DeviceSpec> devices_;
  std::map<uint64_t, Entry> jobs_;
  uint64_t epoch_ = 0;
};

}  // namespace muond
