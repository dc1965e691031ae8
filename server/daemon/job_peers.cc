// A job with other members: votes and verdicts, parameters that come and go, and who is lost (server/README.md, "A step over
// several daemons"). A job that is alone calls nothing here.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/daemon/job.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr uint64_t kVoteToken = uint64_t{1} << 63;
constexpr uint32_t kChief = 0;
constexpr absl::Duration kVoteAgain = absl::Seconds(2);
constexpr absl::Duration kLookEvery = absl::Milliseconds(50);
constexpr absl::Duration kLeftAgain = absl::Milliseconds(200);
constexpr uint32_t kTellGo = 1, kTellVoid = 2;  // VERDICT's `attempt`

Frame MakeFrame(FrameType type, uint64_t step, uint32_t bucket = kNone, uint64_t value = 0) {
  Frame frame;
  frame.type = type;
  frame.step = step;
  frame.bucket = bucket;
  frame.value = value;
  return frame;
}

}  // namespace

absl::Status Job::OpenLinks() {
  if (alone() || links_ != nullptr) return absl::OkStatus();
  JobLinksOptions options;
  options.table = context_.links;
  options.owner = this;
  options.members = record_.members;
  options.self = record_.self;
  options.frame = FrameTo(layout_->first_rank, FrameType::kPing);
  options.exchange = slabs_.exchange.data();
  options.exchange_bytes = layout_->exchange.bytes();
  StartCourier();
  auto links = JobLinks::Open(std::move(options));
  if (!links.ok()) return links.status();
  links_ = *std::move(links);
  return absl::OkStatus();
}

// What our exchange slab holds, and what the others have acknowledged of it: both are kept.
void Job::StartCourier() {
  together_ = std::make_unique<Together>(*layout_);
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (!layout_->view.owns(item)) continue;
    const auto* filled =
        reinterpret_cast<const Cell*>(slabs_.exchange.data() + layout_->exchange.filled(item));
    together_->courier.Filled(item, filled->load(std::memory_order_acquire));
    for (uint32_t member = 0; member < layout_->view.count; ++member) {
      if (member == layout_->view.self) continue;
      const Cell& acked = page_->parameter_ready(FirstRankOf(member), item);
      together_->courier.Acked(member, item, acked.load(std::memory_order_acquire));
    }
  }
}

VerdictInput Job::LocalInput() const {
  VerdictInput input = Input();
  input.tensors = layout_->local_tensors;
  return input;
}

// As CheckSheets, of this daemon's ranks; the chief judges all of them.
void Job::CheckLocalSheets() {
  sheets_at_ = absl::Now();
  if (step_began_ == absl::InfiniteFuture()) step_began_ = sheets_at_;
  const VerdictInput input = LocalInput();
  Verdict ignored;
  together_->sheets_differ = !Judge::Presence(input, &presence_, &ignored);
  sheets_checked_ = true;
  expect_norm_ = page_->sheet(layout_->first_rank, input.step).clip_norm > 0;
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (!layout_->view.owns(item)) continue;
    works_->SetPresence(item, presence_, *page_, input.step);
    if (Present(item) && gatherer_->whole(item) && !Enough(item, requested_[item]))
      RequestMeasure(item);
  }
  FlushMeasures();
}

void Job::TryTogether() {
  const uint64_t step = gatherer_->step();
  if (together_->lost_rank && layout_->view.chief()) {
    Conclude(::muond::RankLost(*together_->lost_rank, together_->lost_why));
    return;
  }
  if (!sheets_checked_) {
    if (!SheetsIn() || !AttemptsIn()) return;
    CheckLocalSheets();
  }
  if (!together_->sheets_differ && !AllMeasured()) return;
  if (!layout_->view.chief()) {
    Vote();
    return;
  }
  for (uint32_t member = 1; member < layout_->view.count; ++member) {
    if (together_->left[member]) {
      orphan_wanted_ = true;
      return Conclude(::muond::RankLost(FirstRankOf(member), "it has left the job"));
    }
    if (together_->votes[member] != step) return;
  }
  const absl::Time judged = absl::Now();
  Time(Phase::kMeasure, sheets_at_);
  // From here on as one daemon with all the ranks.
  Verdict verdict;
  if (Judge::Sheets(Input(), &verdict) && Judge::Presence(Input(), &presence_, &verdict))
    verdict = Judge::Decide(Input(), presence_);
  Conclude(verdict);
  Time(Phase::kVerdict, judged);
}

void Job::Vote() {
  const uint64_t step = gatherer_->step();
  // One put of a vote at a time: what it carries is not touched until it is done.
  if (together_->voting != 0 || !links_->up(kChief)) return;
  if (absl::Now() - together_->voted_at < kVoteAgain && together_->votes[0] == step) return;
  const ExchangeLayout& exchange = layout_->exchange;
  char* const base = slabs_.exchange.data();
  const ExchangeLayout::Vote& vote = exchange.vote(layout_->view.self);
  for (const uint32_t rank : vote.ranks) {
    std::memcpy(base + exchange.sheet(rank), page_->sheet_data(rank, step), page_->sheet_bytes());
  }
  for (const uint32_t run : vote.runs) {
    std::memcpy(base + exchange.measurement(run), &works_->measurement(run), sizeof(Measurement));
  }
  FailPoint("peer_before_vote");
  if (!links_->Put(kChief, vote.at, vote.bytes, kVoteToken)) return;
  together_->voting = step;
  together_->voted_at = absl::Now();
  together_->votes[0] = step;
}

// The chief's: the member's sheets and measurements lie in the exchange slab.
void Job::VoteCame(uint32_t member, uint64_t step) {
  if (step <= verdict_step_) return TellVerdict(member, step);
  if (step != verdict_step_ + 1 || together_->votes[member] == step) return;
  if (together_->leaving && phase_ == JobPhase::kGathering) {
    orphan_wanted_ = true;
    return Conclude(::muond::RankLost(layout_->first_rank, "it has left the job"));
  }
  const ExchangeLayout& exchange = layout_->exchange;
  const char* const base = slabs_.exchange.data();
  const ExchangeLayout::Vote& vote = exchange.vote(member);
  for (const uint32_t rank : vote.ranks) {
    const auto* sheet = reinterpret_cast<const SheetHeader*>(base + exchange.sheet(rank));
    if (sheet->commit.load(std::memory_order_acquire) != step) {
      Log(Severity::kWarning, "vote.refused",
          {{"job", name()}, {"member", links_->NameOf(member)}, {"step", step}, {"rank", rank}});
      return;
    }
    std::memcpy(page_->sheet_data(rank, step), sheet, page_->sheet_bytes());
  }
  for (const uint32_t run : vote.runs) {
    std::memcpy(&works_->measurement(run), base + exchange.measurement(run), sizeof(Measurement));
  }
  together_->votes[member] = step;
  FailPoint("peer_after_vote");
  if (phase_ == JobPhase::kGathering) TryVerdict();
}

void Job::TellVerdict(uint32_t member, uint64_t step) {
  if (step == 0) return;
  const auto verdict = journal_->verdict(step);
  if (!verdict) return;
  const bool go = verdict->kind == VerdictKind::kGo;
  Frame frame = MakeFrame(FrameType::kVerdict, step, go ? kNone : verdict->detail,
                          go ? std::bit_cast<uint64_t>(verdict->clip_factor) : verdict->reason);
  frame.attempt = go ? kTellGo : kTellVoid;
  links_->Send(member, frame);
}

void Job::VerdictCame(const Frame& frame) {
  if (layout_->view.chief() || frame.step != verdict_step_ + 1) return;
  if (phase_ == JobPhase::kRunning) {
    together_->next_verdict = frame;
  } else if (phase_ == JobPhase::kGathering) {
    TakeVerdict(frame);
  }
}

void Job::TakeVerdict(const Frame& frame) {
  together_->next_verdict.reset();
  Verdict verdict;
  verdict.go = frame.attempt == kTellGo;
  if (!verdict.go) {
    verdict = Recorded(frame.step, static_cast<VoidReason>(frame.value), frame.bucket,
                       layout_->tensor_names, "by the job's first daemon");
    if (verdict.reason == VoidReason::kRankLost) orphan_wanted_ = true;
    Conclude(verdict);
    return;
  }
  verdict.clip_factor = std::bit_cast<double>(frame.value);
  // A successor has not looked at its sheets yet; the vote that led here has.
  Verdict ignored;
  if (!SheetsIn() || !Judge::Presence(LocalInput(), &presence_, &ignored)) {
    Log(Severity::kError, "verdict.refused",
        {{"job", name()}, {"step", frame.step}, {"reason", "no sheets of this step are here"}});
    return;
  }
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (layout_->view.owns(item)) works_->SetPresence(item, presence_, *page_, frame.step);
  }
  Conclude(verdict);
}

bool Job::HasLanded(uint32_t item, uint64_t step) const {
  for (const Holder& holder : works_->copy_out(item).holders) {
    if (holder.ready->load(std::memory_order_acquire) < step) return false;
  }
  return true;
}

bool Job::WaitsForItem(uint32_t item) const {
  return !layout_->view.owns(item) && Present(item) && !HasLanded(item, verdict_step_);
}

uint64_t Job::AwaitItems() {
  uint64_t awaited = 0;
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (layout_->view.owns(item)) continue;
    if (!Present(item)) {
      for (const Holder& holder : works_->copy_out(item).holders)
        holder.ready->store(verdict_step_, std::memory_order_release);
    }
    awaited += WaitsForItem(item);
  }
  return awaited;
}

void Job::CopyOutLanded() {
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (together_->landed[item] == verdict_step_ && WaitsForItem(item)) CopyOutArrived(item);
  }
}

void Job::ItemArrived(uint32_t member, uint32_t item, uint64_t step) {
  if (item >= layout_->page.items || layout_->view.owner_of_item[item] != member || !has_slabs())
    return;
  if (HasLanded(item, step)) {
    links_->Send(member, MakeFrame(FrameType::kTaken, step, item));
    return;
  }
  together_->landed[item] = std::max(together_->landed[item], step);
  if (phase_ == JobPhase::kRunning && step == verdict_step_) CopyOutArrived(item);
}

void Job::CopyOutArrived(uint32_t item) {
  const uint64_t step = verdict_step_;
  if (together_->copying[item] == step) return;
  together_->copying[item] = step;
  FailPoint("peer_after_arrived");
  DeviceRoom& room = devices_[item % devices_.size()];
  Stream& stream = room.lane->stream();
  works_->PointCopyOut(item, {});
  CopyOut* const copy = &works_->copy_out(item);
  room.scatterer.Run(room.lane->ops(), stream, absl::MakeConstSpan(&copy, 1));
  for (const Holder& holder : copy->holders) stream.WriteCell(holder.ready, step);
  stream.Host([this, item, step] {
    Mailbox& mailbox = context_.mailbox;
    const uint64_t job = id();
    const bool last = items_left_.fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (last) SetStepOver(step, StepOutcome::kApplied);
    mailbox.Post(Completion{CompletionKind::kItemLanded, job, item});
    if (last) mailbox.Post(Completion{CompletionKind::kJobStepDone, job, step});
  });
}

void Job::ItemLanded(uint32_t item) {
  if (links_ == nullptr) return;
  FailPoint("peer_before_taken");
  links_->Send(layout_->view.owner_of_item[item],
               MakeFrame(FrameType::kTaken, together_->copying[item], item));
}

void Job::FrameCame(uint32_t member, const Frame& frame) {
  if (!has_slabs()) return;
  switch (frame.type) {
    case FrameType::kVote:
      if (layout_->view.chief()) VoteCame(member, frame.step);
      break;
    case FrameType::kVerdict:
      if (member == kChief) VerdictCame(frame);
      break;
    case FrameType::kArrived:
      ItemArrived(member, frame.bucket, frame.step);
      break;
    case FrameType::kTaken:
      if (frame.bucket >= layout_->page.items || !layout_->view.owns(frame.bucket)) break;
      together_->courier.Acked(member, frame.bucket, frame.step);
      page_->parameter_ready(FirstRankOf(member), frame.bucket)
          .store(frame.step, std::memory_order_release);
      break;
    case FrameType::kLost:
      if (layout_->view.chief() && frame.bucket < ranks())
        RankLost(frame.bucket,
                 absl::StrFormat("daemon %s has seen it die", links_->NameOf(member)));
      break;
    case FrameType::kLeft:
      together_->left[member] = true;
      break;
    default:
      break;
  }
  PumpPuts();
}

void Job::PutDone(uint32_t member, uint64_t token, bool arrived) {
  if (token == kVoteToken) {
    const uint64_t step = std::exchange(together_->voting, 0);
    if (!arrived || phase_ == JobPhase::kOrphaned) return;
    if (step == verdict_step_ + 1) links_->Send(kChief, MakeFrame(FrameType::kVote, step));
    if (phase_ == JobPhase::kGathering && sheets_checked_) TryVerdict();
    return;
  }
  const uint32_t item = static_cast<uint32_t>(token);
  const uint64_t step = together_->courier.PutDone(member, item, arrived, absl::Now());
  if (step != 0) {
    FailPoint("peer_before_arrived");
    links_->Send(member, MakeFrame(FrameType::kArrived, step, item));
  }
  PumpPuts();
}

void Job::PumpPuts() {
  for (uint32_t member = 0; member < layout_->view.count; ++member) {
    while (const auto put = together_->courier.Next(member)) {
      const ExchangeLayout& exchange = layout_->exchange;
      if (links_->Put(member, exchange.parameter(put->item), exchange.parameter_bytes(put->item),
                      put->item)) {
        continue;
      }
      // A full queue: later.
      together_->courier.PutDone(member, put->item, false, absl::Now());
      break;
    }
  }
}

void Job::LinkIsUp(uint32_t member) {
  together_->courier.LinkUp(member);
  if (layout_->view.chief()) {
    TellVerdict(member, verdict_step_);
  } else if (member == kChief) {
    together_->voting = 0;
    together_->votes[0] = 0;
    if (phase_ == JobPhase::kGathering) TryVerdict();
  }
  PumpPuts();
}

void Job::LinkIsDown(uint32_t member) {
  together_->courier.LinkDown(member);
  if (member == kChief) together_->voting = 0;
}

void Job::Tick(absl::Time now) {
  if (links_ == nullptr || now < together_->look_at) return;
  together_->look_at = now + kLookEvery;
  links_->Tick(now);
  together_->courier.Deadline(now);
  PumpPuts();
  const bool ends = together_->leaving || phase_ == JobPhase::kOrphaned;
  if (together_->lost_rank && !layout_->view.chief() && !ends) {
    links_->Send(kChief, MakeFrame(FrameType::kLost, verdict_step_ + 1, *together_->lost_rank));
  }
  if (phase_ == JobPhase::kGathering && !layout_->view.chief() && sheets_checked_) TryTogether();
  if (ends || orphan_wanted_) return;
  for (uint32_t member = 0; member < links_->count(); ++member) {
    if (member == links_->self() || links_->up(member) || together_->left[member]) continue;
    if (now - links_->down_since(member) > links_->patience(member))
      return MemberLost(member, links_->down_since(member));
  }
}

// Gone for good, as far as this daemon can tell: the job ends here, and what happened to the step is said.
void Job::MemberLost(uint32_t member, absl::Time since) {
  const bool running = phase_ == JobPhase::kRunning;
  const uint64_t step = running ? verdict_step_ : verdict_step_ + 1;
  const std::string text = absl::StrFormat(
      "step %d: daemon %s (at %s) has not answered for %.0f s; %s", step, links_->NameOf(member),
      record_.members.members[member].shard_address, absl::ToDoubleSeconds(absl::Now() - since),
      running ? "the step was decided and parts of it are applied: restore a snapshot"
              : "the step changed nothing here, other daemons may have applied it");
  Log(Severity::kError, "member.lost",
      {{"job", name()}, {"member", links_->NameOf(member)}, {"step", step}, {"text", text}});
  orphan_wanted_ = true;
  if (!running) {
    Verdict verdict = ::muond::RankLost(FirstRankOf(member), text);
    verdict.text = text;
    Conclude(verdict);
    return;
  }
  // Nothing of this step will ever end it. What is on our streams runs out first.
  last_void_ = ::muond::RankLost(FirstRankOf(member), text);
  last_void_.text = text;
  void_step_ = step;
  context_.scheduler.RemoveJob(id());
  context_.scheduler.AddJob(id());
  SyncLanes();
  phase_ = JobPhase::kGathering;
}

bool Job::ReadyToEnd() {
  if (links_ == nullptr) return true;
  if (phase_ == JobPhase::kRunning) return false;
  together_->leaving = true;
  const absl::Time now = absl::Now();
  bool ready = true;
  for (uint32_t member = 0; member < links_->count(); ++member) {
    if (member == links_->self()) continue;
    const bool acked = together_->courier.AllAcked(member);
    const bool silent = now - links_->down_since(member) > links_->patience(member);
    const bool gone = !links_->up(member) && (acked || silent);
    ready = ready && (gone || (acked && together_->left[member]));
  }
  if (!ready && now - together_->told_left_at < kLeftAgain) return false;
  together_->told_left_at = now;
  for (uint32_t member = 0; member < links_->count(); ++member) {
    if (member != links_->self() && together_->courier.AllAcked(member))
      links_->Send(member, MakeFrame(FrameType::kLeft, verdict_step_));
  }
  return ready;
}

}  // namespace muond
