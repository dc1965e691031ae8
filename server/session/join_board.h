// JoinBoard: collects the joins of a job's ranks until the job is complete, and merges what they brought.
//
// A job is complete when every rank of its world has joined with the same manifest and the same wish to resume. Whoever does not
// fit is refused, and with a manifest that differs everybody who waits is told what differs: no rank waits for a job that can
// never start. With an attempt's number, ranks that ask later are told the same, and ranks of another attempt are kept apart.
// Decides only: `now` is an argument, answers are returned.
// Threads: the StepLoop.   Errors: in the answers, with names and numbers; a refused join changes nothing.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/types/manifest.h"

namespace muond {

struct JoinRequest {
  uint64_t ticket = 0;
  std::shared_ptr<const Manifest> manifest;
  std::shared_ptr<const RankManifest> rank;
  bool adopt = false;
  absl::Time deadline;
  uint64_t seat = 0, attempt = 0;  // as in JoinCall
};

struct JoinAnswer {
  uint64_t ticket = 0;
  absl::Status status;
};

// All ranks are there. tickets[r] and ranks[r] belong to rank r.
struct CompleteJoin {
  std::shared_ptr<const Manifest> manifest;
  std::vector<std::shared_ptr<const RankManifest>> ranks;
  std::vector<uint64_t> tickets;
  std::vector<uint64_t> seats;
  bool adopt = false;
  uint64_t attempt = 0;
};

class JoinBoard {
 public:
  struct Added {
    std::vector<JoinAnswer> refused;
    std::optional<CompleteJoin> complete;
  };
  // REQUIRES: manifest and rank are valid each by itself.
  // A repeat (same rank, same seat) replaces the request before it, whose ticket is refused.
  Added Add(const JoinRequest& request);
  // From now on every request of `attempt` is refused with `status`: the job failed, and not all of its ranks have heard.
  // The newest kAttemptsMax are remembered. Nothing happens for attempt 0.
  void Fail(uint64_t attempt, const absl::Status& status);
  void Cancel(uint64_t ticket);
  // Joins whose deadline has passed, each told which ranks are missing.
  std::vector<JoinAnswer> Expire(absl::Time now);
  // When Expire has something to say next; InfiniteFuture when nobody waits.
  absl::Time NextDeadline() const;
  // Everybody who waits, answered with `status`.
  std::vector<JoinAnswer> RefuseAll(const absl::Status& status);
  // The ranks that wait for the others of this job; no manifest: nobody waits.
  CompleteJoin Partial(const std::string& job) const;
  // Names of jobs that wait for ranks, with the ranks that are there.
  std::vector<std::pair<std::string, std::vector<int32_t>>> Waiting() const;

 private:
  static constexpr size_t kAttemptsMax = 64;
  using Ranks = std::map<int32_t, JoinRequest>;
  std::map<std::string, Ranks> jobs_;
  std::deque<std::pair<uint64_t, absl::Status>> failed_;  // attempts, the newest last
};

}  // namespace muond
