#include "server/session/join_board.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace muond {
namespace {

constexpr int kMissingNamedMax = 16;

std::string MissingRanks(const std::map<int32_t, JoinRequest>& joined, int32_t world_size) {
  std::vector<int32_t> missing;
  for (int32_t rank = 0; rank < world_size && missing.size() < kMissingNamedMax; ++rank) {
    if (!joined.contains(rank)) missing.push_back(rank);
  }
  const int64_t more =
      world_size - static_cast<int64_t>(joined.size()) - static_cast<int64_t>(missing.size());
  std::string text = absl::StrJoin(missing, ", ");
  if (more > 0) text += absl::StrFormat(" and %d more", more);
  return text;
}

}  // namespace

JoinBoard::Added JoinBoard::Add(const JoinRequest& request) {
  Added added;
  const std::string& name = request.manifest->job;
  const int32_t rank = request.rank->rank;
  const auto refuse = [&added, &request](absl::Status status) {
    added.refused.push_back({request.ticket, std::move(status)});
    return std::move(added);
  };
  if (rank < 0 || rank >= request.manifest->world_size) {
    return refuse(absl::InvalidArgumentError(absl::StrFormat(
        "job '%s': rank %d in a world of %d", name, rank, request.manifest->world_size)));
  }
  for (const auto& [attempt, status] : failed_) {
    if (attempt == request.attempt) return refuse(status);
  }
  const auto found = jobs_.find(name);
  if (found != jobs_.end()) {
    Ranks& ranks = found->second;
    const JoinRequest& first = ranks.begin()->second;
    if (first.attempt != request.attempt && first.attempt != 0 && request.attempt != 0) {
      return refuse(absl::AlreadyExistsError(
          absl::StrFormat("job '%s': ranks of another run wait under this name for %s", name,
                          MissingRanks(ranks, first.manifest->world_size))));
    }
    const auto taken = ranks.find(rank);
    if (taken != ranks.end() && request.seat != 0 && request.seat == taken->second.seat) {
      added.refused.push_back({taken->second.ticket, absl::AbortedError("asked again")});
      taken->second = request;
      return added;
    }
    if (taken != ranks.end()) {
      return refuse(absl::AlreadyExistsError(
          absl::StrFormat("job '%s': a rank %d has joined already and waits for %s", name, rank,
                          MissingRanks(ranks, request.manifest->world_size))));
    }
    std::string difference = FirstDifference(*first.manifest, *request.manifest);
    if (difference.empty() && first.adopt != request.adopt) {
      difference = absl::StrFormat("resume: %s against %s", first.adopt ? "adopt" : "fresh",
                                   request.adopt ? "adopt" : "fresh");
    }
    if (!difference.empty()) {
      const absl::Status status = absl::InvalidArgumentError(absl::StrFormat(
          "job '%s': ranks %d and %d disagree: %s", name, first.rank->rank, rank, difference));
      for (const auto& [other, waiting] : ranks) added.refused.push_back({waiting.ticket, status});
      Fail(request.attempt, status);
      jobs_.erase(found);
      return refuse(status);
    }
  }
  Ranks& ranks = jobs_[name];
  ranks.emplace(rank, request);
  if (static_cast<int64_t>(ranks.size()) < request.manifest->world_size) return added;
  CompleteJoin complete;
  complete.manifest = request.manifest;
  complete.adopt = request.adopt;
  complete.attempt = request.attempt;
  for (const auto& [index, joined] : ranks) {
    complete.ranks.push_back(joined.rank);
    complete.tickets.push_back(joined.ticket);
    complete.seats.push_back(joined.seat);
  }
  jobs_.erase(name);
  added.complete = std::move(complete);
  return added;
}

void JoinBoard::Fail(uint64_t attempt, const absl::Status& status) {
  if (attempt == 0) return;
  failed_.emplace_back(attempt, status);
  if (failed_.size() > kAttemptsMax) failed_.pop_front();
}

void JoinBoard::Cancel(uint64_t ticket) {
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    std::erase_if(job->second,
                  [ticket](const auto& entry) { return entry.second.ticket == ticket; });
    job = job->second.empty() ? jobs_.erase(job) : std::next(job);
  }
}

std::vector<JoinAnswer> JoinBoard::Expire(absl::Time now) {
  std::vector<JoinAnswer> answers;
  for (auto job = jobs_.begin(); job != jobs_.end();) {
    Ranks& ranks = job->second;
    const int32_t world_size = ranks.begin()->second.manifest->world_size;
    const std::string missing = MissingRanks(ranks, world_size);
    for (const auto& [rank, joined] : ranks) {
      if (joined.deadline > now) continue;
      answers.push_back({joined.ticket, absl::DeadlineExceededError(absl::StrFormat(
                                            "job '%s': %d of %d ranks joined in time; missing: %s",
                                            job->first, ranks.size(), world_size, missing))});
      Fail(joined.attempt, answers.back().status);
    }
    std::erase_if(ranks, [now](const auto& entry) { return entry.second.deadline <= now; });
    job = ranks.empty() ? jobs_.erase(job) : std::next(job);
  }
  return answers;
}

absl::Time JoinBoard::NextDeadline() const {
  absl::Time next = absl::InfiniteFuture();
  for (const auto& [name, ranks] : jobs_) {
    for (const auto& [rank, joined] : ranks) next = std::min(next, joined.deadline);
  }
  return next;
}

std::vector<JoinAnswer> JoinBoard::RefuseAll(const absl::Status& status) {
  std::vector<JoinAnswer> answers;
  for (const auto& [name, ranks] : jobs_) {
    for (const auto& [rank, joined] : ranks) answers.push_back({joined.ticket, status});
  }
  jobs_.clear();
  return answers;
}

CompleteJoin JoinBoard::Partial(const std::string& job) const {
  CompleteJoin partial;
  const auto waiting = jobs_.find(job);
  if (waiting == jobs_.end() || waiting->second.empty()) return partial;
  for (const auto& [rank, joined] : waiting->second) {
    partial.manifest = joined.manifest;
    partial.ranks.push_back(joined.rank);
    partial.tickets.push_back(joined.ticket);
    partial.seats.push_back(joined.seat);
    partial.adopt = joined.adopt;
    partial.attempt = joined.attempt;
  }
  return partial;
}

std::vector<std::pair<std::string, std::vector<int32_t>>> JoinBoard::Waiting() const {
  std::vector<std::pair<std::string, std::vector<int32_t>>> waiting;
  for (const auto& [name, ranks] : jobs_) {
    waiting.emplace_back(name, std::vector<int32_t>());
    for (const auto& [rank, joined] : ranks) waiting.back().second.push_back(rank);
  }
  return waiting;
}

}  // namespace muond
