// Jobs in the step loop: join, plan, attach, detach, orphan, recovery, end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/types/shards.h"
#include "server/daemon/step_loop_impl.h"
#include "server/observe/log.h"

namespace muond {
namespace {

// A job whose ranks have joined and do not all attach is given up after this.
constexpr absl::Duration kAttachDeadline = absl::Minutes(3);

}  // namespace

Job* StepLoopImpl::FindJob(const std::string& name) {
  for (auto& [id, job] : jobs_) {
    if (job->name() == name) return job.get();
  }
  return nullptr;
}

StepLoopImpl::Session* StepLoopImpl::FindSession(uint64_t session) {
  const auto found = sessions_.find(session);
  return found == sessions_.end() ? nullptr : &found->second;
}

void StepLoopImpl::Join(JoinCommand command, Done<Joined> done) {
  Command(std::move(done), [this, command = std::move(command)](Done<Joined> answer) mutable {
    OnJoin(std::move(command), std::move(answer));
  });
}

void StepLoopImpl::CancelJoin(uint64_t ticket) {
  mailbox_->Post([this, ticket] {
    board_.Cancel(ticket);
    Refuse({{ticket, absl::CancelledError("the caller has gone")}});
  });
}

void StepLoopImpl::Refuse(const std::vector<JoinAnswer>& answers) {
  for (const JoinAnswer& answer : answers) {
    const auto waiting = waiting_joins_.find(answer.ticket);
    if (waiting == waiting_joins_.end()) continue;
    Done<Joined> done = std::move(waiting->second);
    waiting_joins_.erase(waiting);
    done(answer.status);
  }
}

Joined StepLoopImpl::AnswerOf(const Job& job, uint32_t rank) {
  return {job.id(), job.record().sessions[rank], job.incarnation(), job.epoch(),
          job.verdict_step()};
}

bool StepLoopImpl::OnRepeatedJoin(const JoinCommand& command, Done<Joined>& done) {
  const std::string& name = command.manifest->job;
  const auto rank = static_cast<uint32_t>(command.rank->rank);
  const auto sits = [&](const std::vector<uint64_t>& seats) {
    return command.seat != 0 && rank < seats.size() && seats[rank] == command.seat;
  };
  if (const auto planned = planning_.find(name);
      planned != planning_.end() && sits(planned->second.join.seats)) {
    uint64_t& ticket = planned->second.join.tickets[rank];
    Refuse({{ticket, absl::AbortedError("asked again")}});
    ticket = command.ticket;
    waiting_joins_.emplace(ticket, std::move(done));
    return true;
  }
  const Job* running = FindJob(name);
  if (running == nullptr || !sits(running->record().seats)) return false;
  if (FindSession(running->record().sessions[rank]) == nullptr) return false;  // it has left
  Log(Severity::kInfo, "rank.joined_again", {{"job", name}, {"rank", rank}});
  done(AnswerOf(*running, rank));
  return true;
}

void StepLoopImpl::RefuseJob(const CompleteJoin& join, const absl::Status& status) {
  board_.Fail(join.attempt, status);
  for (uint64_t ticket : join.tickets) Refuse({{ticket, status}});
}

void StepLoopImpl::OnJoin(JoinCommand command, Done<Joined> done) {
  if (!stopped_ && OnRepeatedJoin(command, done)) return;
  if (is_draining_ || stopped_)
    return done(absl::UnavailableError("the daemon drains: it takes no new jobs"));
  absl::Status valid = Validate(*command.manifest);
  if (valid.ok()) valid = Validate(*command.manifest, *command.rank);
  if (!valid.ok()) return done(valid);
  const std::string& name = command.manifest->job;
  const bool adopt = command.resume == ResumeMode::kAdopt;
  const Job* running = FindJob(name);
  if (planning_.contains(name) || (running != nullptr && running->phase() != JobPhase::kOrphaned)) {
    return done(absl::AlreadyExistsError(absl::StrFormat(
        "a job '%s' runs here%s", name,
        running == nullptr ? ""
                           : absl::StrFormat(" with %d ranks, at step %d", running->ranks(),
                                             running->verdict_step()))));
  }
  if (adopt && running == nullptr) {
    return done(absl::NotFoundError(absl::StrFormat("no state of a job '%s' is held here", name)));
  }
  if (adopt && !running->alone()) {
    return done(absl::UnimplementedError(absl::StrFormat(
        "job '%s' was one of several daemons: its state is not adopted yet; restore it", name)));
  }
  if (adopt && running->loading()) {
    return done(absl::FailedPreconditionError(absl::StrFormat(
        "job '%s': its ranks died while they were loading state, or before the step after it: what "
        "is held may be a mixture; restore the state instead of adopting it",
        name)));
  }
  if (adopt) {
    const std::string difference = FirstDifference(*running->layout().manifest, *command.manifest);
    if (!difference.empty()) {
      return done(absl::FailedPreconditionError(absl::StrFormat(
          "job '%s': the state that is held is of another manifest: %s", name, difference)));
    }
  }
  waiting_joins_.emplace(command.ticket, std::move(done));
  JoinBoard::Added added = board_.Add({command.ticket, command.manifest, command.rank, adopt,
                                       command.deadline, command.seat, command.attempt});
  Refuse(added.refused);
  if (added.complete) OnComplete(*std::move(added.complete));
}

void StepLoopImpl::OnComplete(CompleteJoin join) {
  std::vector<RankManifest> ranks;
  for (const auto& rank : join.ranks) ranks.push_back(*rank);
  if (absl::Status status = CheckRanks(*join.manifest, ranks); !status.ok()) {
    RefuseJob(join, status);
    return;
  }
  const std::string name = join.manifest->job;
  offers_.erase(name);
  Planning planning{std::move(join), 0, {}};
  if (Job* older = FindJob(name); older != nullptr) {
    if (planning.join.adopt) {
      planning.adopted = older->id();
    } else {
      RemoveJob(*older, "a fresh job of its name begins");
    }
  }
  const auto manifest = planning.join.manifest;
  auto rank_manifests = planning.join.ranks;
  AdoptedJob adopted;
  if (const auto older = jobs_.find(planning.adopted); older != jobs_.end())
    adopted = {older->first, older->second->incarnation()};
  planning_.emplace(name, std::move(planning));
  options_.plans->CreateJob(manifest, std::move(rank_manifests), adopted,
                            [this, name](absl::StatusOr<PlannedJob> planned) {
                              mailbox_->Post([this, name, planned = std::move(planned)]() mutable {
                                OnPlanned(name, std::move(planned));
                              });
                            });
}

void StepLoopImpl::OnPlanned(const std::string& name, absl::StatusOr<PlannedJob> planned) {
  const auto found = planning_.find(name);
  if (found == planning_.end()) return;
  Planning planning = std::move(found->second);
  planning_.erase(found);
  if (const auto older = jobs_.find(planning.adopted); planned.ok() && older != jobs_.end()) {
    // A coordinator that has started again since does not know how often the job came back: what we hold counts.
    planned->incarnation = std::max(planned->incarnation, older->second->incarnation() + 1);
  }
  absl::StatusOr<Job*> job =
      planned.ok() ? StartJob(planning, *planned) : absl::StatusOr<Job*>(planned.status());
  if (!job.ok()) {
    if (planned.ok() && planning.adopted == 0)
      options_.plans->EndJob(planned->job_id, std::string(job.status().message()));
  }
  AnswerJoins(planning, job);
}

void StepLoopImpl::AnswerJoins(const Planning& planning, const absl::StatusOr<Job*>& job) {
  if (!job.ok()) {
    RefuseJob(planning.join, job.status());
    return;
  }
  for (uint32_t rank = 0; rank < planning.join.tickets.size(); ++rank) {
    const auto waiting = waiting_joins_.find(planning.join.tickets[rank]);
    if (waiting == waiting_joins_.end())
      continue;  // it has gone meanwhile: the attach deadline ends the job
    Done<Joined> done = std::move(waiting->second);
    waiting_joins_.erase(waiting);
    done(AnswerOf(**job, rank));
  }
}

absl::StatusOr<Job*> StepLoopImpl::StartJob(const Planning& planning, PlannedJob planned) {
  const CompleteJoin& join = planning.join;
  if (absl::Status status = Validate(*join.manifest, planned.plan); !status.ok()) return status;
  CatalogRecord record;
  record.job = planned.job_id;
  record.incarnation = planned.incarnation;
  record.manifest = join.manifest;
  record.plan = std::make_shared<const Plan>(std::move(planned.plan));
  record.ranks = join.ranks;
  record.seats = join.seats;
  record.devices = static_cast<uint32_t>(devices_.size());
  record.members = planning.members;
  for (uint32_t member = 0; member < record.members.members.size(); ++member) {
    if (record.members.members[member].daemon == options_.daemon) record.self = member;
  }
  for (size_t rank = 0; rank < join.ranks.size(); ++rank) {
    const bool here = record.members.members.empty() ||
                      record.members.member_of_rank[rank] == static_cast<int32_t>(record.self);
    record.sessions.push_back(here ? MintId() : 0);
  }
  auto layout = JobLayout::Build(record.manifest, record.ranks, record.plan, options_.daemon,
                                 static_cast<int>(devices_.size()), record.members, record.self);
  if (!layout.ok()) return layout.status();
  auto job = std::make_unique<Job>(std::move(record), *std::move(layout), Context());
  if (planning.adopted == 0) {
    if (absl::Status status = job->Keep(); !status.ok()) return status;
  } else {
    const auto older = jobs_.find(planning.adopted);
    if (older == jobs_.end())
      return absl::NotFoundError("the state to adopt has gone while its plan was made");
    if (absl::Status status = job->Adopt(*older->second); !status.ok()) return status;
    scheduler_->RemoveJob(older->first);
    ForgetSessions(*older->second);
    lease_ends_.erase(older->first);
    jobs_.erase(older);
  }
  Job* started = job.get();
  scheduler_->AddJob(started->id());
  AddSessions(*started);
  jobs_.emplace(started->id(), std::move(job));
  lease_ends_[started->id()] = absl::Now() + kAttachDeadline;
  Log(Severity::kInfo, "job.started",
      {{"job", started->name()},
       {"job_id", started->id()},
       {"incarnation", started->incarnation()},
       {"ranks", started->ranks()},
       {"items", started->layout().page.items},
       {"parameters", started->layout().parameters},
       {"step", started->verdict_step()}});
  if (options_.metrics != nullptr) {
    options_.metrics->Jobs(static_cast<int>(jobs_.size()));
    options_.metrics->Epoch(started->epoch());
    options_.metrics->PlacementImbalance(started->layout().plan->imbalance);
  }
  return started;
}

JobContext StepLoopImpl::Context() {
  return {*options_.backend,        devices_,         *scheduler_,          *mailbox_,
          *options_.vault,          options_.metrics, options_.fail_points, watch_.get(),
          options_.workspace_bytes, &links_};
}

void StepLoopImpl::AddSessions(Job& job) {
  for (uint32_t rank = 0; rank < job.ranks(); ++rank) {
    const CatalogRank state = job.rank_state(rank);
    if (state == CatalogRank::kLeft || state == CatalogRank::kGone ||
        state == CatalogRank::kElsewhere)
      continue;
    Session& session = sessions_[job.record().sessions[rank]];
    session.job = &job;
    session.rank = rank;
    session.last_frame = absl::Now();
  }
}

void StepLoopImpl::Attach(uint64_t session, Done<Attached> done) {
  Command(std::move(done), [this, session](Done<Attached> answer) { answer(OnAttach(session)); });
}

absl::StatusOr<Attached> StepLoopImpl::OnAttach(uint64_t session_id) {
  Session* session = FindSession(session_id);
  if (session == nullptr || session->job->phase() == JobPhase::kOrphaned) {
    return absl::NotFoundError("no such session: join first");
  }
  Job& job = *session->job;
  const uint32_t rank = session->rank;
  if (absl::Status status = job.Allocate(); !status.ok()) return status;
  if (absl::Status status = job.slabs().Grant(rank, session_id); !status.ok()) return status;
  job.SetRankState(rank, CatalogRank::kAttached);
  bool all = true;
  for (uint32_t other = 0; other < job.ranks(); ++other)
    all = all && (job.rank_state(other) == CatalogRank::kAttached ||
                  job.rank_state(other) == CatalogRank::kElsewhere);
  if (all) lease_ends_.erase(job.id());

  const JobLayout& layout = job.layout();
  const RankLayout& mine = layout.rank_layouts[rank];
  Attached attached;
  attached.gradient_slab_bytes = job.slabs().gradients[rank].slab->size_bytes();
  attached.parameter_slab_bytes = job.slabs().parameters[rank].slab->size_bytes();
  attached.page_bytes = layout.page_bytes;
  for (size_t block = 0; block < mine.blocks.size(); ++block) {
    const BlockLayout& at = mine.blocks[block];
    attached.blocks.push_back(
        {static_cast<int32_t>(block), at.gradient_offset, at.parameter_offset, at.push_gradient});
  }
  for (const BucketLayout& bucket : layout.buckets) {
    PlannedBucket planned;
    planned.tensors = bucket.tensors;
    for (int32_t item : bucket.items) {
      // Only items of which this rank holds a part: its cells of the others never move.
      const std::vector<uint32_t>& holders = layout.items[item].parts.ranks;
      if (std::binary_search(holders.begin(), holders.end(), rank)) planned.items.push_back(item);
    }
    attached.buckets.push_back(std::move(planned));
  }
  attached.items = static_cast<int32_t>(layout.page.items);
  attached.page_blocks_max = static_cast<int32_t>(layout.page.blocks_max);
  attached.epoch = job.epoch();
  if (options_.metrics != nullptr) {
    for (size_t device = 0; device < devices_.size(); ++device) {
      const Device& chip = *options_.backend->devices()[device];
      options_.metrics->DeviceOwned(static_cast<int>(device),
                                    chip.info().memory_bytes - chip.free_bytes(),
                                    chip.info().memory_bytes);
    }
  }
  return attached;
}

void StepLoopImpl::Detach(uint64_t session, Done<std::monostate> done) {
  Command(std::move(done), [this, session](Done<std::monostate> answer) {
    const absl::Status status = OnDetach(session);
    if (status.ok()) return answer(std::monostate());
    answer(status);
  });
}

absl::Status StepLoopImpl::OnDetach(uint64_t session_id) {
  Session* session = FindSession(session_id);
  if (session == nullptr)
    return absl::NotFoundError("no such session: it has left already, or never joined");
  Job& job = *session->job;
  job.SetRankState(session->rank, CatalogRank::kLeft);
  Log(Severity::kInfo, "rank.left",
      {{"job", job.name()}, {"rank", session->rank}, {"step", job.verdict_step()}});
  if (session->peer != kNoPeer) peers_[session->peer].session = 0;
  sessions_.erase(session_id);
  const absl::Status status = options_.vault->Revoke(session_id);
  Settle(job);
  return status;
}

void StepLoopImpl::OrphanJob(Job& job) {
  ForgetSessions(job);
  job.Orphan();
  const absl::Duration lease = job.has_slabs() ? options_.job_lease : absl::ZeroDuration();
  Log(Severity::kWarning, "job.orphaned",
      {{"job", job.name()},
       {"step", job.verdict_step()},
       {"lease_seconds", absl::ToDoubleSeconds(lease)}});
  lease_ends_[job.id()] = absl::Now() + lease;
}

void StepLoopImpl::ForgetSessions(const Job& job) {
  for (uint64_t session : job.record().sessions) sessions_.erase(session);  // 0 is nobody's
}

void StepLoopImpl::RemoveJob(Job& job, const std::string& reason) {
  const uint64_t id = job.id();
  const bool speaks = job.layout().view.chief();
  Log(Severity::kInfo, "job.ended",
      {{"job", job.name()}, {"job_id", id}, {"step", job.verdict_step()}, {"reason", reason}});
  ForgetSessions(job);
  scheduler_->RemoveJob(id);
  lease_ends_.erase(id);
  after_step_.erase(id);
  job.DropAll();
  jobs_.erase(id);
  // Of several daemons, the first one speaks for the job.
  if (speaks) options_.plans->EndJob(id, reason);
  if (options_.metrics != nullptr) options_.metrics->Jobs(static_cast<int>(jobs_.size()));
  CheckDrained();
  if (jobs_.empty() && options_.on_last_job_gone) options_.on_last_job_gone();
}

absl::Status StepLoopImpl::RecoverJob(uint64_t id, std::vector<KeptSlab>& slabs) {
  // Two catalogues: a predecessor died between keeping a new incarnation's and dropping the old one's.
  KeptSlab* newest = nullptr;
  for (KeptSlab& slab : slabs) {
    if (slab.info.kind != SlabKind::kCatalog) continue;
    newest = &slab;
  }
  if (newest == nullptr) return absl::DataLossError("no catalogue was kept");
  const int copy = ::dup(newest->descriptor.get());
  auto catalog = ImportHostSlab(copy, newest->info.size_bytes);
  if (!catalog.ok()) return catalog.status();
  auto record =
      ReadCatalog({static_cast<const char*>((*catalog)->data()), (*catalog)->size_bytes()});
  if (!record.ok()) return record.status();
  if (record->job != id)
    return absl::DataLossError(absl::StrFormat("the catalogue is of job %x", record->job));
  auto layout = JobLayout::Build(record->manifest, record->ranks, record->plan, options_.daemon,
                                 static_cast<int>(devices_.size()), record->members, record->self);
  if (!layout.ok()) return layout.status();
  auto job = std::make_unique<Job>(*std::move(record), *std::move(layout), Context());
  catalog->reset();
  if (absl::Status status = job->Import(std::move(*newest)); !status.ok()) return status;
  for (KeptSlab& slab : slabs) {
    if (&slab == newest) continue;
    const absl::Status status = slab.info.kind == SlabKind::kCatalog
                                    ? options_.vault->Drop(slab.info.slab)
                                    : job->Import(std::move(slab));
    if (!status.ok()) return status;
  }
  Log(Severity::kInfo, "job.found",
      {{"job", job->name()}, {"incarnation", job->incarnation()}, {"slabs", slabs.size()}});
  scheduler_->AddJob(id);
  AddSessions(*job);
  Job* found = job.get();
  jobs_.emplace(id, std::move(job));
  return ResumeJob(*found);
}

absl::Status StepLoopImpl::ResumeJob(Job& job) {
  bool all_attached = true, any_gone = false;
  for (uint32_t rank = 0; rank < job.ranks(); ++rank) {
    all_attached = all_attached && job.rank_state(rank) != CatalogRank::kJoined;
    any_gone = any_gone || job.rank_state(rank) == CatalogRank::kGone;
  }
  absl::Status status;
  if (job.slabs().Complete(job.layout())) {
    status = job.Resume();
  } else if (any_gone && job.slabs().HasState(job.layout())) {
    status = job.ResumeOrphan();
  }
  if (!status.ok()) {
    ForgetSessions(job);
    scheduler_->RemoveJob(job.id());
    job.slabs().DropAll();
    jobs_.erase(job.id());
    return status;
  }
  if (any_gone && job.phase() != JobPhase::kOrphaned) {
    job.RankLost(0, "a rank died under the stepper before");
  } else if (any_gone) {
    lease_ends_[job.id()] = absl::Now() + options_.job_lease;
    ForgetSessions(job);
  } else if (!all_attached || !job.has_slabs()) {
    lease_ends_[job.id()] = absl::Now() + kAttachDeadline;
  }
  return absl::OkStatus();
}

void StepLoopImpl::CheckDrained() {
  const absl::Time now = absl::Now();
  for (auto drain = draining_.begin(); drain != draining_.end();) {
    if (!jobs_.empty() && drain->deadline > now) {
      ++drain;
      continue;
    }
    Done<int32_t> done = std::move(drain->done);
    drain = draining_.erase(drain);
    done(static_cast<int32_t>(jobs_.size()));
  }
}

void StepLoopImpl::Drain(absl::Time deadline, Done<int32_t> done) {
  Command(std::move(done), [this, deadline](Done<int32_t> answer) {
    is_draining_ = true;
    if (options_.metrics != nullptr) options_.metrics->Draining(true);
    Refuse(board_.RefuseAll(absl::UnavailableError("the daemon drains: it takes no new jobs")));
    draining_.push_back({deadline, std::move(answer)});
    CheckDrained();
  });
}

void StepLoopImpl::GetPlan(uint64_t job_id, uint64_t epoch,
                           Done<std::shared_ptr<const Plan>> done) {
  Command(std::move(done), [this, job_id, epoch](Done<std::shared_ptr<const Plan>> answer) {
    const auto job = jobs_.find(job_id);
    if (job == jobs_.end())
      return answer(absl::NotFoundError(absl::StrFormat("no job %d", job_id)));
    if (epoch != 0 && epoch != job->second->epoch()) {
      return answer(absl::NotFoundError(absl::StrFormat(
          "job '%s' is under epoch %d, not %d", job->second->name(), job->second->epoch(), epoch)));
    }
    answer(job->second->layout().plan);
  });
}

}  // namespace muond
