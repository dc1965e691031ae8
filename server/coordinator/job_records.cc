#include "server/coordinator/job_records.h"

#include <charconv>

#include "absl/strings/str_format.h"
#include "proto/types/convert.h"

namespace muond {
namespace {

using absl::StrFormat;

void AddPut(std::string key, std::string value, std::vector<Change>* changes) {
  changes->push_back({Change::Kind::kPut, std::move(key), std::move(value)});
}

absl::Status Damaged(const std::string& key, const absl::Status& why) {
  return absl::DataLossError(StrFormat("store: %s: %s", key, why.message()));
}

template <typename Number>
bool Parse(std::string_view text, int base, Number* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number, base);
  return error == std::errc() && end == text.data() + text.size();
}

// One pair, `field` being the key without its job's prefix.
absl::Status Take(const std::string& field, const std::string& value, JobRecord* record) {
  if (field == "daemon") {
    record->daemon = value;
    return absl::OkStatus();
  }
  if (field == "incarnation") {
    return Parse(value, 10, &record->incarnation) ? absl::OkStatus()
                                                  : absl::DataLossError("is no number");
  }
  if (field == "manifest") {
    absl::StatusOr<Manifest> manifest = ParseManifest(value);
    if (manifest.ok()) record->manifest = *std::move(manifest);
    return manifest.status();
  }
  if (field.starts_with("rank/")) {
    absl::StatusOr<RankManifest> rank = ParseRankManifest(value);
    if (rank.ok()) record->ranks.push_back(*std::move(rank));
    return rank.status();
  }
  if (field.starts_with("plan/")) {
    absl::StatusOr<Plan> plan = ParsePlan(value);
    if (plan.ok()) record->plans[plan->epoch] = std::make_shared<const Plan>(*std::move(plan));
    return plan.status();
  }
  return absl::DataLossError("is no field of a job");
}

}  // namespace

std::string JobPrefix(uint64_t job) { return StrFormat("job/%016x/", job); }

JobEntry EntryOf(const JobRecord& record) {
  const Plan& plan = *record.plans.rbegin()->second;
  return {record.job,
          record.manifest.job,
          record.incarnation,
          plan.epoch,
          record.manifest.world_size,
          static_cast<int64_t>(plan.items.size()),
          record.daemon,
          record.orphaned != absl::InfiniteFuture(),
          plan.imbalance};
}

void AddPlanPuts(const JobRecord& record, std::vector<Change>* changes) {
  const std::string prefix = JobPrefix(record.job);
  changes->push_back({Change::Kind::kErasePrefix, prefix + "plan/", ""});
  for (const auto& [epoch, plan] : record.plans)
    AddPut(StrFormat("%splan/%010d", prefix, epoch), Serialize(*plan), changes);
  AddPut(prefix + "incarnation", StrFormat("%d", record.incarnation), changes);
  AddPut(prefix + "daemon", record.daemon, changes);
}

void AddPuts(const JobRecord& record, std::vector<Change>* changes) {
  const std::string prefix = JobPrefix(record.job);
  changes->push_back({Change::Kind::kErasePrefix, prefix, ""});
  AddPut(prefix + "manifest", Serialize(record.manifest), changes);
  for (const RankManifest& rank : record.ranks) {
    AddPut(StrFormat("%srank/%06d", prefix, rank.rank), Serialize(rank), changes);
  }
  AddPlanPuts(record, changes);
}

absl::StatusOr<std::map<uint64_t, JobRecord>> LoadJobs(Store& store) {
  auto pairs = store.Scan("job/");
  if (!pairs.ok()) return pairs.status();
  std::map<uint64_t, JobRecord> jobs;
  for (const auto& [key, value] : *pairs) {
    uint64_t job = 0;
    if (key.size() < 21 || key[20] != '/' ||
        !Parse(std::string_view(key).substr(4, 16), 16, &job)) {
      return Damaged(key, absl::DataLossError("is no job's key"));
    }
    JobRecord& record = jobs[job];
    record.job = job;
    if (absl::Status status = Take(key.substr(21), value, &record); !status.ok())
      return Damaged(key, status);
  }
  for (const auto& [job, record] : jobs) {
    if (record.plans.empty() || record.manifest.tensors.empty()) {
      return Damaged(JobPrefix(job), absl::DataLossError("has no plan or no manifest"));
    }
  }
  return jobs;
}

}  // namespace muond
