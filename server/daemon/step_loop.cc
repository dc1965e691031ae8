#include "server/daemon/step_loop.h"

#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/carrier/ipc/unix_socket.h"
#include "server/daemon/step_loop_impl.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr absl::Duration kLinksLook = absl::Milliseconds(200);  // at jobs of several daemons

}  // namespace

absl::StatusOr<std::unique_ptr<StepLoop>> StepLoop::Create(StepLoopOptions options) {
  auto mailbox = Mailbox::Create();
  if (!mailbox.ok()) return mailbox.status();
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoToStatus(errno, "epoll of the step loop");
  auto loop =
      std::make_unique<StepLoopImpl>(std::move(options), *std::move(mailbox), std::move(epoll));
  if (absl::Status status = loop->Start(); !status.ok()) return status;
  return loop;
}

StepLoopImpl::StepLoopImpl(StepLoopOptions options, std::unique_ptr<Mailbox> mailbox,
                           UniqueFd epoll)
    : options_(std::move(options)),
      mailbox_(std::move(mailbox)),
      watch_(std::make_unique<CellWatch>(*mailbox_)),
      epoll_(std::move(epoll)),
      spin_(absl::ToChronoNanoseconds(options_.spin)) {}

StepLoopImpl::~StepLoopImpl() {
  mailbox_->Close();
  for (DeviceRoom& room : devices_) {
    if (room.lane != nullptr) (void)room.lane->stream().Synchronize();
  }
}

absl::Status StepLoopImpl::Watch(int descriptor) {
  if (descriptor < 0) return absl::OkStatus();
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = descriptor;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event) != 0) {
    return ErrnoToStatus(errno, absl::StrFormat("epoll of descriptor %d", descriptor));
  }
  return absl::OkStatus();
}

absl::Status StepLoopImpl::Start() {
  for (const auto& device : options_.backend->devices()) {
    auto ops = options_.make_ops(*device);
    if (!ops.ok()) return ops.status();
    auto lane = Lane::Create(*device, *std::move(ops));
    if (!lane.ok()) return lane.status();
    DeviceRoom room;
    room.lane = *std::move(lane);
    room.executor = std::make_unique<Executor>(*room.lane);
    devices_.push_back(std::move(room));
  }
  scheduler_ = std::make_unique<Scheduler>(static_cast<int>(devices_.size()));
  links_.carrier = options_.shards.get();
  links_.peer_timeout = options_.peer_timeout;
  const int shards = options_.shards == nullptr ? -1 : options_.shards->event_descriptor();
  for (int descriptor : {mailbox_->event_descriptor(), options_.carrier->event_descriptor(),
                         options_.vault->event_descriptor(), shards}) {
    if (absl::Status status = Watch(descriptor); !status.ok()) return status;
  }
  return Recover();
}

absl::Status StepLoopImpl::Recover() {
  std::map<uint64_t, std::vector<KeptSlab>> kept;
  for (KeptSlab& slab : options_.vault->TakeKeptSlabs())
    kept[slab.info.job].push_back(std::move(slab));
  for (auto& [id, slabs] : kept) {
    const absl::Time began = absl::Now();
    absl::Status status = RecoverJob(id, slabs);
    if (absl::IsUnavailable(status)) return status;
    if (!status.ok()) {
      // The job is lost, the daemon is not; its ranks are told by their next call.
      Log(Severity::kError, "job.not_recovered", {{"job_id", id}, {"status", status}});
      for (const KeptSlab& slab : slabs) (void)options_.vault->Drop(slab.info.slab);
      options_.plans->EndJob(id, std::string(status.message()));
      continue;
    }
    const auto job = jobs_.find(id);
    if (job == jobs_.end()) continue;
    Log(Severity::kInfo, "job.recovered",
        {{"job", job->second->name()},
         {"step", job->second->verdict_step()},
         {"seconds", absl::ToDoubleSeconds(absl::Now() - began)}});
    Settle(*job->second);
  }
  return absl::OkStatus();
}

int StepLoopImpl::TimeoutMs(absl::Time now) const {
  absl::Time next = std::min(board_.NextDeadline(), now + absl::Seconds(1));
  for (const auto& [job, ends] : lease_ends_) next = std::min(next, ends);
  for (const Draining& drain : draining_) next = std::min(next, drain.deadline);
  for (const auto& [name, offer] : offers_) {
    if (!offer.asked) next = std::min(next, offer.again);
  }
  if (!links_.tags.empty() || !links_.peers.empty()) next = std::min(next, now + kLinksLook);
  return static_cast<int>(std::max<int64_t>(
      0, absl::ToInt64Milliseconds(absl::Ceil(next - now, absl::Milliseconds(1)))));
}

absl::Status StepLoopImpl::Run() {
  while (!stopped_ && failure_.ok()) PollOnce(TimeoutMs(absl::Now()));
  mailbox_->Close();
  mailbox_->Take(&completions_, &commands_);
  const absl::Status stopping = absl::UnavailableError("the daemon is stopping");
  for (auto& [ticket, done] : waiting_joins_) done(stopping);
  waiting_joins_.clear();
  // Commands that came too late still get their answers: they find a loop without jobs to wait for.
  for (auto& command : commands_) command();
  for (auto& [ticket, done] : waiting_joins_) done(stopping);
  waiting_joins_.clear();
  for (Draining& drain : draining_) drain.done(static_cast<int32_t>(jobs_.size()));
  draining_.clear();
  return failure_;
}

void StepLoopImpl::Stop() {
  mailbox_->Post([this] { stopped_ = true; });
}

void StepLoopImpl::PollOnce(int timeout_ms) {
  epoll_event ready[8];
  int count = 0;
  const auto look = [&](int timeout) {
    count = ::epoll_wait(epoll_.get(), ready, 8, timeout);
    return count > 0;
  };
  spin_.Wait([&] { return look(0); }, [&] { look(timeout_ms); });
  for (int i = 0; i < count; ++i) {
    const int descriptor = ready[i].data.fd;
    if (descriptor == mailbox_->event_descriptor()) {
      mailbox_->Take(&completions_, &commands_);
      for (const Completion& completion : completions_) OnCompletion(completion);
      for (auto& command : commands_) command();
      commands_.clear();
    } else if (descriptor == options_.carrier->event_descriptor()) {
      events_.clear();
      options_.carrier->Poll(&events_);
      for (const CarrierEvent& event : events_) OnCarrierEvent(event);
    } else if (options_.shards != nullptr && descriptor == options_.shards->event_descriptor()) {
      PollShards();
    } else {
      auto events = options_.vault->Poll();
      if (!events.ok()) {
        failure_ = events.status();
        return;
      }
      for (const KeeperEvent& event : *events) OnKeeperEvent(event);
    }
  }
  Pump();
  Tick(absl::Now());
}

void StepLoopImpl::OnCompletion(const Completion& completion) {
  const auto found = jobs_.find(completion.job);
  // A job leaves only when nothing of it is on a stream, but its last measures may still be in the box.
  if (found == jobs_.end()) return;
  Job& job = *found->second;
  switch (completion.kind) {
    case CompletionKind::kMeasured:
      job.Measured(static_cast<int>(completion.value));
      break;
    case CompletionKind::kGroupDone:
      job.GroupDone(completion.value);
      break;
    case CompletionKind::kJobStepDone:
      job.StepDone();
      break;
    case CompletionKind::kGradientCell:
      job.Announced(static_cast<uint32_t>(completion.value >> 32),
                    static_cast<uint32_t>(completion.value));
      break;
    case CompletionKind::kSheetCell:
      job.SheetCame(static_cast<uint32_t>(completion.value));
      break;
    case CompletionKind::kItemLanded:
      job.ItemLanded(static_cast<uint32_t>(completion.value));
      break;
  }
  Settle(job);
}

void StepLoopImpl::PollShards() {
  events_.clear();
  options_.shards->Poll(&events_);
  for (const CarrierEvent& event : events_) {
    JobLinks* const links = links_.Find(event);
    if (links == nullptr) {
      // Of a job that has ended here.
      if (event.kind == CarrierEventKind::kPeerUp) options_.shards->Close(event.peer);
      continue;
    }
    const uint64_t id = links->job();
    links->OnEvent(event);
    const auto job = jobs_.find(id);
    if (job != jobs_.end()) Settle(*job->second);
  }
}

void StepLoopImpl::OnCarrierEvent(const CarrierEvent& event) {
  switch (event.kind) {
    case CarrierEventKind::kPeerUp:
      peers_[event.peer].pid = event.credentials.pid;
      break;
    case CarrierEventKind::kFrame:
      if (options_.metrics != nullptr) options_.metrics->FrameReceived();
      OnFrame(event.peer, event.frame);
      break;
    case CarrierEventKind::kBadMessage:
      if (options_.metrics != nullptr) options_.metrics->FrameRefused();
      Log(Severity::kWarning, "frame.refused", {{"peer", event.peer}, {"status", event.status}});
      break;
    case CarrierEventKind::kPeerGone: {
      // A connection, not a rank: the keeper knows when the rank has died.
      const auto peer = peers_.find(event.peer);
      if (peer == peers_.end()) break;
      if (Session* session = FindSession(peer->second.session);
          session != nullptr && session->peer == event.peer) {
        session->peer = kNoPeer;
      }
      peers_.erase(peer);
      break;
    }
    case CarrierEventKind::kPutDone:  // ranks of this node share memory: nobody puts
      break;
  }
}

void StepLoopImpl::OnFrame(PeerId peer, const Frame& frame) {
  if (frame.type == FrameType::kPing) {
    Frame pong = frame;
    pong.type = FrameType::kPong;
    (void)options_.carrier->Send(peer, pong);
    return;
  }
  Session* session = FindSession(frame.session);
  GateView view;
  if (session != nullptr && session->job->has_slabs() &&
      session->job->phase() != JobPhase::kOrphaned) {
    view = session->job->Gate(session->rank);
    if (frame.type != FrameType::kHello) view.known = peers_[peer].session == frame.session;
  }
  const GateDecision decision = Admit(view, frame);
  if (decision.answer == GateAnswer::kIgnore || decision.answer == GateAnswer::kHold) return;
  if (decision.answer != GateAnswer::kTake) {
    Answer(peer, frame, decision, view.known ? session->job : nullptr,
           view.known ? session->rank : frame.rank);
    return;
  }
  Job& job = *session->job;
  const uint32_t rank = session->rank;
  session->last_frame = absl::Now();
  switch (frame.type) {
    case FrameType::kHello: {
      session->peer = peer;
      peers_[peer].session = frame.session;
      session->pid = peers_[peer].pid;
      Frame welcome = job.FrameTo(rank, FrameType::kWelcome);
      welcome.step = job.verdict_step();
      (void)options_.carrier->Send(peer, welcome);
      job.SheetFilled(rank);  // it may have announced while no stepper ran
      break;
    }
    case FrameType::kReady:
      job.Announced(rank, frame.bucket);
      break;
    case FrameType::kStep:
      job.SheetFilled(rank);
      break;
    default:
      break;  // BYE: the detach, or the keeper's word, decides
  }
  Settle(job);
}

void StepLoopImpl::Answer(PeerId peer, const Frame& frame, const GateDecision& decision, Job* job,
                          uint32_t rank) {
  if (decision.answer == GateAnswer::kReplay) {
    if (options_.metrics != nullptr) options_.metrics->Replay();
    (void)options_.carrier->Send(peer, job->OutcomeTo(rank, frame.step));
    return;
  }
  if (options_.metrics != nullptr) {
    options_.metrics->FrameRefused();
    options_.metrics->Step(StepResult::kRefused);
  }
  Log(Severity::kWarning, "frame.refused",
      {{"peer", peer},
       {"type", NameOf(frame.type)},
       {"rank", frame.rank},
       {"step", frame.step},
       {"epoch", frame.epoch},
       {"reason", static_cast<uint64_t>(decision.reason)},
       {"expected_step", decision.expected_step}});
  Frame refused = frame;
  refused.type = FrameType::kRefused;
  refused.value = static_cast<uint64_t>(decision.reason);
  refused.step = decision.expected_step;
  if (job != nullptr) {
    refused.epoch = job->epoch();
    refused.incarnation = job->incarnation();
  }
  (void)options_.carrier->Send(peer, refused);
}

void StepLoopImpl::OnKeeperEvent(const KeeperEvent& event) {
  if (event.kind == KeeperEventKind::kDrain || event.kind == KeeperEventKind::kFinish) {
    is_draining_ = true;
    Refuse(board_.RefuseAll(absl::UnavailableError("the daemon drains: it takes no new jobs")));
    CheckDrained();
    return;
  }
  Session* session = FindSession(event.session);
  if (session == nullptr) return;
  Job& job = *session->job;
  const CatalogRank state = job.rank_state(session->rank);
  if (state == CatalogRank::kLeft || state == CatalogRank::kGone) return;
  job.SetRankState(session->rank, CatalogRank::kGone);
  Log(Severity::kWarning, "rank.gone",
      {{"job", job.name()}, {"rank", session->rank}, {"pid", session->pid}});
  job.RankLost(session->rank, absl::StrFormat("process %d has died", session->pid));
  Settle(job);
}

void StepLoopImpl::Settle(Job& job) {
  for (const auto& [rank, frame] : job.outbox()) {
    const Session* session = FindSession(job.record().sessions[rank]);
    if (session != nullptr && session->peer != kNoPeer)
      (void)options_.carrier->Send(session->peer, frame);
  }
  job.outbox().clear();
  if (job.phase() == JobPhase::kRunning) return;
  const auto waiting = after_step_.find(job.id());
  if (waiting != after_step_.end()) {
    std::vector<absl::AnyInvocable<void()>> works = std::move(waiting->second);
    after_step_.erase(waiting);
    for (auto& work : works) work();
  }
  if (job.orphan_wanted()) {
    OrphanJob(job);
    return;
  }
  bool all_left = true;
  for (uint32_t rank = 0; rank < job.ranks(); ++rank) {
    const CatalogRank state = job.rank_state(rank);
    all_left = all_left && (state == CatalogRank::kLeft || state == CatalogRank::kElsewhere);
  }
  if (all_left && job.phase() != JobPhase::kOrphaned && job.ReadyToEnd())
    RemoveJob(job, "its ranks have left");
}

void StepLoopImpl::Pump() {
  const auto limit = [this](uint64_t job, uint32_t item) { return jobs_.at(job)->Room(item); };
  for (size_t device = 0; device < devices_.size(); ++device) {
    while (scheduler_->Next(static_cast<int>(device), limit, &group_)) {
      jobs_.at(group_.job)->RunGroup(static_cast<int>(device), group_);
    }
  }
}

void StepLoopImpl::Tick(absl::Time now) {
  if (board_.NextDeadline() <= now) Refuse(board_.Expire(now));
  for (auto lease = lease_ends_.begin(); lease != lease_ends_.end();) {
    const auto [id, ends] = *lease++;
    if (ends > now) continue;
    const auto job = jobs_.find(id);
    if (job == jobs_.end()) {
      lease_ends_.erase(id);
    } else if (job->second->phase() != JobPhase::kRunning) {
      RemoveJob(*job->second, job->second->phase() == JobPhase::kOrphaned
                                  ? "its lease has ended"
                                  : "not all ranks attached in time");
    }
  }
  if (!draining_.empty()) CheckDrained();
  if (options_.shards == nullptr) return;
  OfferWaiting(now);
  peer_jobs_.clear();
  for (const auto& [id, job] : jobs_) {
    if (!job->alone()) peer_jobs_.push_back(id);
  }
  for (const uint64_t id : peer_jobs_) {
    Job& job = *jobs_.at(id);
    job.Tick(now);
    Settle(job);
  }
  if (!links_.retired.empty() && options_.shards->puts_pending() == 0) links_.retired.clear();
}

}  // namespace muond
