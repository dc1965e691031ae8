#include "server/coordinator/coordinator.h"

#include <algorithm>
#include <charconv>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/types/convert.h"
#include "proto/types/limits.h"
#include "proto/types/shards.h"
#include "server/observe/log.h"

namespace muond {
namespace {

using absl::StrFormat;

uint64_t SystemRandom() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

bool IsDaemonId(const std::string& id) {
  return id.size() == 32 && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

}  // namespace

Coordinator::Coordinator(std::unique_ptr<Store> store, CoordinatorOptions options)
    : store_(std::move(store)), options_(std::move(options)), members_(options_.lease) {}

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(std::unique_ptr<Store> store,
                                                                 CoordinatorOptions options,
                                                                 absl::Time now) {
  if (!options.mint) options.mint = SystemRandom;
  std::unique_ptr<Coordinator> coordinator(new Coordinator(std::move(store), std::move(options)));
  if (absl::Status status = coordinator->Load(now); !status.ok()) return status;
  return coordinator;
}

absl::Status Coordinator::Load(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  auto epoch = store_->Scan("epoch");
  if (!epoch.ok()) return epoch.status();
  for (const auto& [key, value] : *epoch) {
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), epoch_);
    if (error != std::errc() || end != value.data() + value.size()) {
      return absl::DataLossError(StrFormat("store: epoch '%s' is no number", value.substr(0, 40)));
    }
  }
  auto daemons = store_->Scan("daemon/");
  if (!daemons.ok()) return daemons.status();
  for (const auto& [key, value] : *daemons) {
    absl::StatusOr<DaemonEntry> entry = ParseDaemonEntry(value);
    if (!entry.ok())
      return absl::DataLossError(StrFormat("store: %s: %s", key, entry.status().message()));
    members_.Restore(*entry, now);
  }
  auto jobs = LoadJobs(*store_);
  if (!jobs.ok()) return jobs.status();
  jobs_ = *std::move(jobs);
  for (auto& [job, record] : jobs_) {
    if (members_.Find(record.daemon) == nullptr) record.orphaned = now;
  }
  if (!jobs_.empty() || !daemons->empty()) {
    Log(Severity::kInfo, "coordinator.restored",
        {{"daemons", daemons->size()}, {"jobs", jobs_.size()}, {"epoch", epoch_}});
  }
  return absl::OkStatus();
}

std::string Coordinator::MintDaemon() {
  return StrFormat("%016x%016x", options_.mint(), options_.mint());
}

uint64_t Coordinator::MintJob() {
  while (true) {
    const uint64_t job = options_.mint();
    if (job != 0 && !jobs_.contains(job)) return job;
  }
}

absl::StatusOr<RegisterReply> Coordinator::Register(const RegisterCall& call, absl::Time now) {
  if (absl::Status status = CheckVersion(call.version, "the daemon"); !status.ok()) return status;
  if (call.devices.empty()) return absl::InvalidArgumentError("a daemon without devices");
  if (!call.daemon.empty() && !IsDaemonId(call.daemon)) {
    return absl::InvalidArgumentError(
        StrFormat("'%s' is no daemon's id: 32 hexadecimal digits, or empty for a new one",
                  call.daemon.substr(0, 64)));
  }
  std::string daemon = call.daemon.empty() ? MintDaemon() : call.daemon;
  bool other = false;
  {
    absl::MutexLock lock(&mutex_);
    ExpireLocked(now);
    if (members_.Find(daemon) == nullptr &&
        members_.Entries(now).size() >= static_cast<size_t>(kDaemonsMax)) {
      return absl::ResourceExhaustedError(
          StrFormat("%d daemons are registered, the limit", kDaemonsMax));
    }
    DaemonEntry entry{daemon, call.endpoint, call.version.build, call.devices, 0, false};
    std::vector<Change> changes = {{Change::Kind::kPut, "daemon/" + daemon, Serialize(entry)}};
    // What it does not hold any more has ended, whoever did not live to say so.
    const std::vector<uint64_t> ended = NotHeld(daemon, call);
    for (uint64_t job : ended) changes.push_back({Change::Kind::kErasePrefix, JobPrefix(job), ""});
    if (absl::Status status = store_->Commit(changes); !status.ok()) return status;
    other = members_.Enter(daemon, call, now);
    for (uint64_t job : ended) {
      Log(Severity::kInfo, "coordinator.job_ended",
          {{"job", jobs_.at(job).manifest.job}, {"reason", "its daemon holds it no more"}});
      jobs_.erase(job);
    }
    for (auto& [job, record] : jobs_) {
      if (record.daemon == daemon) record.orphaned = absl::InfiniteFuture();
    }
  }
  Log(Severity::kInfo, "coordinator.daemon_registered",
      {{"daemon", daemon}, {"endpoint", call.endpoint}, {"devices", call.devices.size()}});
  if (other) {
    if (absl::Status status = Replan(daemon); !status.ok()) {
      Log(Severity::kWarning, "coordinator.replan_failed", {{"daemon", daemon}, {"error", status}});
    }
  }
  return RegisterReply{ProtocolVersion(), std::move(daemon),
                       static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.lease))};
}

std::vector<uint64_t> Coordinator::NotHeld(const std::string& daemon, const RegisterCall& call) {
  std::vector<uint64_t> jobs;
  if (!call.held) return jobs;
  for (const auto& [job, record] : jobs_) {
    if (record.daemon == daemon &&
        std::find(call.held->begin(), call.held->end(), job) == call.held->end()) {
      jobs.push_back(job);
    }
  }
  return jobs;
}

absl::StatusOr<HeartbeatReply> Coordinator::Heartbeat(const HeartbeatCall& call, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  ExpireLocked(now);
  if (absl::Status status = members_.Heartbeat(call, now); !status.ok()) return status;
  return HeartbeatReply{epoch_};
}

absl::StatusOr<JobRecord> Coordinator::Admit(const CreateJobCall& call, absl::Time now,
                                             std::vector<uint64_t>* replaced) {
  ExpireLocked(now);
  const DaemonEntry* const daemon = members_.Find(call.daemon);
  if (daemon == nullptr) {
    return absl::NotFoundError(
        StrFormat("daemon '%s' is not registered: register again", call.daemon.substr(0, 64)));
  }
  if (daemon->draining)
    return absl::FailedPreconditionError(StrFormat("the daemon at %s drains", daemon->endpoint));
  JobRecord record;
  record.daemon = call.daemon;
  record.manifest = call.manifest;
  record.ranks = call.ranks;
  record.incarnation = 1;
  for (const auto& [job, other] : jobs_) {
    if (other.manifest.job != call.manifest.job || (call.adopt && job == call.job)) continue;
    if (other.orphaned == absl::InfiniteFuture()) {
      const DaemonEntry* const owner = members_.Find(other.daemon);
      return absl::AlreadyExistsError(
          StrFormat("a job named '%s' runs: id %016x, incarnation %d, %d ranks, on the daemon at "
                    "%s; end it, or choose "
                    "another name",
                    call.manifest.job, job, other.incarnation, other.manifest.world_size,
                    owner == nullptr ? "?" : owner->endpoint));
    }
    replaced->push_back(job);
  }
  if (!call.adopt) {
    if (jobs_.size() >= static_cast<size_t>(kJobsMax)) {
      return absl::ResourceExhaustedError(
          StrFormat("%d jobs are in the catalogue, the limit", kJobsMax));
    }
    record.job = MintJob();
    return record;
  }
  if (call.job == 0) return absl::InvalidArgumentError("adopt without a job's id");
  record.job = call.job;
  record.incarnation = call.incarnation + 1;
  const auto known = jobs_.find(call.job);
  if (known == jobs_.end())
    return record;  // this coordinator's store is younger than the job: the daemon knows it
  if (known->second.daemon != call.daemon && known->second.orphaned == absl::InfiniteFuture()) {
    return absl::FailedPreconditionError(
        StrFormat("job %016x belongs to another daemon that is alive", call.job));
  }
  if (std::string difference = FirstDifference(known->second.manifest, call.manifest);
      !difference.empty()) {
    return absl::FailedPreconditionError(StrFormat(
        "job '%s' cannot be adopted with another manifest: %s", call.manifest.job, difference));
  }
  record.incarnation = std::max(call.incarnation, known->second.incarnation) + 1;
  record.plans = known->second.plans;
  return record;
}

absl::StatusOr<Planned> Coordinator::MakeTimedPlan(const PlannerInput& request) {
  const absl::Time begin = absl::Now();
  absl::StatusOr<Planned> planned = MakePlan(request, options_.models);
  options_.planned(absl::Now() - begin);
  return planned;
}

absl::StatusOr<CreateJobReply> Coordinator::CreateJob(const CreateJobCall& call, absl::Time now) {
  return Create(call, {call.daemon}, now);
}

absl::StatusOr<CreateJobReply> Coordinator::Create(const CreateJobCall& call,
                                                   const std::vector<std::string>& daemons,
                                                   absl::Time now) {
  absl::MutexLock planning(&planning_);
  JobRecord record;
  std::vector<uint64_t> replaced;
  std::vector<DeviceSpec> devices;
  uint64_t epoch = 0;
  {
    absl::MutexLock lock(&mutex_);
    absl::StatusOr<JobRecord> admitted = Admit(call, now, &replaced);
    if (!admitted.ok()) return admitted.status();
    record = *std::move(admitted);
    for (const std::string& daemon : daemons) {
      const DaemonEntry* const entry = members_.Find(daemon);
      if (entry == nullptr)
        return absl::NotFoundError(StrFormat("daemon '%s' is not registered", daemon));
      if (entry->draining)
        return absl::FailedPreconditionError(StrFormat("the daemon at %s drains", entry->endpoint));
      devices.insert(devices.end(), entry->devices.begin(), entry->devices.end());
    }
    epoch = epoch_ + 1;
  }
  const Plan* const previous = record.plans.empty() ? nullptr : record.plans.rbegin()->second.get();
  absl::StatusOr<Planned> planned =
      MakeTimedPlan({&record.manifest, record.ranks, devices, previous, epoch});
  if (!planned.ok()) return planned.status();
  record.plans[epoch] = std::make_shared<const Plan>(planned->plan);
  while (record.plans.size() > kPlansKept) record.plans.erase(record.plans.begin());
  // Of several, the one that owns the first item speaks for the job.
  if (daemons.size() > 1)
    record.daemon = planned->plan.devices[planned->plan.items.front().owner].daemon;

  std::vector<Change> changes = {{Change::Kind::kPut, "epoch", StrFormat("%d", epoch)}};
  for (uint64_t job : replaced) changes.push_back({Change::Kind::kErasePrefix, JobPrefix(job), ""});
  AddPuts(record, &changes);
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Status status = store_->Commit(changes); !status.ok()) return status;
    epoch_ = epoch;
    for (uint64_t job : replaced) jobs_.erase(job);
    jobs_[record.job] = record;
  }
  Log(Severity::kInfo, "coordinator.job_created",
      {{"job", record.manifest.job},
       {"ranks", record.manifest.world_size},
       {"incarnation", record.incarnation},
       {"epoch", epoch},
       {"items", planned->plan.items.size()},
       {"imbalance", planned->plan.imbalance}});
  return CreateJobReply{record.job, record.incarnation, std::move(planned->plan)};
}

absl::StatusOr<OfferReply> Coordinator::OfferRanks(const OfferCall& call, absl::Time now) {
  std::optional<OfferBoard::Whole> whole;
  {
    absl::MutexLock lock(&mutex_);
    auto answer = offers_.Take(call, now, &whole);
    if (!answer.ok()) return answer.status();
    if (!whole) return *answer == nullptr ? OfferReply() : **answer;
  }
  absl::StatusOr<OfferReply> reply = CreateOffered(*whole, now);
  absl::MutexLock lock(&mutex_);
  if (!reply.ok()) {
    offers_.Settle(*whole, reply.status(), now);
  } else {
    offers_.Settle(*whole, std::make_shared<const OfferReply>(*reply), now);
  }
  return reply;
}

absl::StatusOr<OfferReply> Coordinator::CreateOffered(const OfferBoard::Whole& whole,
                                                      absl::Time now) {
  if (absl::Status status = CheckRanks(*whole.manifest, whole.ranks); !status.ok()) return status;
  OfferReply reply;
  reply.complete = true;
  reply.ranks = whole.ranks;
  reply.members = whole.members;
  std::vector<std::string> daemons;
  for (const JobMember& member : whole.members.members) daemons.push_back(member.daemon);
  CreateJobCall call;
  call.daemon = daemons.front();
  call.manifest = *whole.manifest;
  call.ranks = whole.ranks;
  absl::StatusOr<CreateJobReply> created = Create(call, daemons, now);
  if (!created.ok()) return created.status();
  reply.job = *std::move(created);
  for (size_t i = 0; i < kJobSecretBytes / sizeof(uint64_t); ++i) {
    const uint64_t random = SystemRandom();
    reply.members.secret.append(reinterpret_cast<const char*>(&random), sizeof random);
  }
  SortMembers(reply.job.plan, &reply.members);
  return reply;
}

absl::Status Coordinator::Replan(const std::string& daemon) {
  absl::MutexLock planning(&planning_);
  std::vector<JobRecord> records;
  std::vector<DeviceSpec> devices;
  uint64_t epoch = 0;
  {
    absl::MutexLock lock(&mutex_);
    const DaemonEntry* const entry = members_.Find(daemon);
    if (entry == nullptr) return absl::OkStatus();
    devices = entry->devices;
    epoch = epoch_;
    for (const auto& [job, record] : jobs_) {
      // One that was away and comes back as it was goes on under the plans it has; so does a job of several daemons.
      const std::vector<DeviceSpec>& planned = record.plans.rbegin()->second->devices;
      const bool alone = std::all_of(planned.begin(), planned.end(),
                                     [&](const DeviceSpec& d) { return d.daemon == daemon; });
      if (record.daemon == daemon && alone &&
          !SameDevices(record.plans.rbegin()->second->devices, devices)) {
        records.push_back(record);
      }
    }
  }
  for (JobRecord& record : records) {
    ++epoch;
    absl::StatusOr<Planned> planned = MakeTimedPlan(
        {&record.manifest, record.ranks, devices, record.plans.rbegin()->second.get(), epoch});
    if (!planned.ok()) return planned.status();
    record.plans[epoch] = std::make_shared<const Plan>(std::move(planned->plan));
    while (record.plans.size() > kPlansKept) record.plans.erase(record.plans.begin());
    std::vector<Change> changes = {{Change::Kind::kPut, "epoch", StrFormat("%d", epoch)}};
    AddPlanPuts(record, &changes);
    absl::MutexLock lock(&mutex_);
    if (!jobs_.contains(record.job)) continue;  // ended meanwhile
    if (absl::Status status = store_->Commit(changes); !status.ok()) return status;
    epoch_ = epoch;
    jobs_[record.job] = record;
    Log(Severity::kInfo, "coordinator.job_replanned",
        {{"job", record.manifest.job}, {"epoch", epoch}});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Plan>> Coordinator::GetPlan(uint64_t job, uint64_t epoch) {
  absl::MutexLock lock(&mutex_);
  const auto at = jobs_.find(job);
  if (at == jobs_.end()) return absl::NotFoundError(StrFormat("no job %016x", job));
  const auto& plans = at->second.plans;
  if (epoch == 0) return plans.rbegin()->second;
  const auto plan = plans.find(epoch);
  if (plan == plans.end()) {
    return absl::NotFoundError(StrFormat("job '%s' has no plan of epoch %d; kept are %d to %d",
                                         at->second.manifest.job, epoch, plans.begin()->first,
                                         plans.rbegin()->first));
  }
  return plan->second;
}

absl::Status Coordinator::EndJob(uint64_t job, const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  const auto at = jobs_.find(job);
  if (at == jobs_.end()) return absl::NotFoundError(StrFormat("no job %016x", job));
  const Change erase{Change::Kind::kErasePrefix, JobPrefix(job), ""};
  if (absl::Status status = store_->Commit({&erase, 1}); !status.ok()) return status;
  Log(Severity::kInfo, "coordinator.job_ended",
      {{"job", at->second.manifest.job}, {"reason", reason.substr(0, 200)}});
  jobs_.erase(at);
  return absl::OkStatus();
}

ClusterStatus Coordinator::GetCluster(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  ExpireLocked(now);
  ClusterStatus cluster;
  cluster.daemons = members_.Entries(now);
  for (const auto& [job, record] : jobs_) cluster.jobs.push_back(EntryOf(record));
  return cluster;
}

void Coordinator::Expire(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  ExpireLocked(now);
}

void Coordinator::ExpireLocked(absl::Time now) {
  std::vector<Change> changes;
  for (const std::string& daemon : members_.Expire(now)) {
    Log(Severity::kWarning, "coordinator.daemon_lost",
        {{"daemon", daemon}, {"lease_seconds", absl::ToDoubleSeconds(options_.lease)}});
    changes.push_back({Change::Kind::kErasePrefix, "daemon/" + daemon, ""});
    for (auto& [job, record] : jobs_) {
      if (record.daemon == daemon) record.orphaned = now;
    }
  }
  for (auto at = jobs_.begin(); at != jobs_.end();) {
    if (now - at->second.orphaned <= options_.orphan_lease) {
      ++at;
      continue;
    }
    Log(Severity::kWarning, "coordinator.job_dropped", {{"job", at->second.manifest.job}});
    changes.push_back({Change::Kind::kErasePrefix, JobPrefix(at->first), ""});
    at = jobs_.erase(at);
  }
  if (changes.empty()) return;
  // What stays in the store when this fails is dropped again after the next start.
  if (absl::Status status = store_->Commit(changes); !status.ok()) {
    Log(Severity::kWarning, "coordinator.store_failed", {{"error", status}});
  }
}

}  // namespace muond
