// A job as the coordinator keeps it, and the pairs of the store that say the same.
//   epoch                       the newest epoch of any job
//   daemon/ID                   a daemon's entry
//   job/ID/incarnation | daemon | manifest | rank/R | plan/EPOCH
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/types/coordinator_calls.h"
#include "server/coordinator/store.h"

namespace muond {

inline constexpr size_t kPlansKept = 4;  // of each job: the newest epochs

struct JobRecord {
  uint64_t job = 0;
  uint32_t incarnation = 0;
  std::string daemon;
  Manifest manifest;
  std::vector<RankManifest> ranks;
  std::map<uint64_t, std::shared_ptr<const Plan>> plans;  // by epoch; the newest is in force
  absl::Time orphaned = absl::InfiniteFuture();           // since when its daemon has no lease
};

JobEntry EntryOf(const JobRecord& record);

std::string JobPrefix(uint64_t job);
void AddPuts(const JobRecord& record,
             std::vector<Change>* changes);  // everything, after erasing what was
void AddPlanPuts(const JobRecord& record, std::vector<Change>* changes);  // what a new plan changes

// DATA_LOSS naming the key that does not parse.
absl::StatusOr<std::map<uint64_t, JobRecord>> LoadJobs(Store& store);

}  // namespace muond
