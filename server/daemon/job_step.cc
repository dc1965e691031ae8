// The machine of a job's steps: announcements, measure, verdict, and the carrying out of a GO.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/daemon/job.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"

namespace muond {

void Job::BeginStep(uint64_t step) {
  phase_ = JobPhase::kGathering;
  sheets_checked_ = false;
  works_->ReadAllReplicas();
  step_began_ = absl::InfiniteFuture();
  gatherer_->Begin(step);
  // Ranks may have announced while the step before was being finished: the cells know.
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket) ReadCell(rank, bucket);
  }
  WatchSheets();
  FlushMeasures();
}

void Job::ReadCell(uint32_t rank, uint32_t bucket) {
  const uint64_t cell = page_->gradient_ready(rank, bucket).load(std::memory_order_acquire);
  whole_.clear();
  const AnnouncementTaken taken = gatherer_->Announce(rank, bucket, cell, &whole_);
  if (taken != AnnouncementTaken::kNew && taken != AnnouncementTaken::kSuperseded) return;
  if (step_began_ == absl::InfiniteFuture()) step_began_ = absl::Now();
  for (const uint32_t item : whole_) RequestMeasure(item);
}

void Job::Announced(uint32_t rank, uint32_t bucket) {
  if (phase_ != JobPhase::kGathering) return;
  ReadCell(rank, bucket);
  WatchGradient(rank, bucket);
  FailPoint("after_ready");
  FlushMeasures();
  if (sheets_checked_) TryVerdict();
}

void Job::SheetFilled(uint32_t rank) {
  if (phase_ != JobPhase::kGathering) return;
  for (uint32_t other = 0; other < ranks(); ++other) {
    if (rank_state(other) != CatalogRank::kLeft) continue;
    if (!alone()) return RankLost(other, "it has left the job");
    return Conclude(::muond::RankLost(other, "it has left the job"));
  }
  for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket) {
    ReadCell(rank, bucket);
    WatchGradient(rank, bucket);
  }
  FailPoint("after_sheet");
  FlushMeasures();
  TryVerdict();
}

void Job::RequestMeasure(uint32_t item) {
  const MeasureRequest request{gatherer_->step(), gatherer_->generation(item), expect_norm_,
                               works_->narrowed(item)};
  if (requested_[item] == request) return;
  requested_[item] = request;
  measure_queues_[layout_->items[item].device].pending.push_back(item);
}

void Job::FlushMeasures() {
  for (size_t device = 0; device < measure_queues_.size(); ++device) {
    MeasureQueue& queue = measure_queues_[device];
    if (queue.pending.empty()) continue;
    std::vector<MeasureEntry> batch;
    if (!queue.spare.empty()) {
      batch = std::move(queue.spare.back());
      queue.spare.pop_back();
    }
    size_t tasks = 0;
    for (const uint32_t item : queue.pending) {
      for (MeasureTask& task : works_->measures(item)) {
        task.want_norm = requested_[item].norm;
        if (queue.tasks.size() <= tasks) queue.tasks.emplace_back();
        std::swap(queue.tasks[tasks++], task);
      }
    }
    Lane& lane = *devices_[device].lane;
    lane.ops().Measure(lane.stream(), absl::MakeConstSpan(queue.tasks).first(tasks));
    tasks = 0;
    for (const uint32_t item : queue.pending) {
      for (MeasureTask& task : works_->measures(item)) std::swap(queue.tasks[tasks++], task);
      batch.push_back({item, requested_[item]});
    }
    queue.pending.clear();
    queue.batches.push_back(std::move(batch));
    lane.stream().Host([this, device] {
      context_.mailbox.Post(Completion{CompletionKind::kMeasured, id(), device});
    });
  }
}

void Job::Measured(int device) {
  MeasureQueue& queue = measure_queues_[device];
  if (queue.batches.empty()) return;  // of the incarnation before this one
  std::vector<MeasureEntry> batch = std::move(queue.batches[queue.oldest++]);
  if (queue.oldest == queue.batches.size()) {
    queue.batches.clear();
    queue.oldest = 0;
  }
  for (const MeasureEntry& entry : batch) measured_[entry.item] = entry.request;
  batch.clear();
  queue.spare.push_back(std::move(batch));
  FailPoint("after_measure");
  if (phase_ == JobPhase::kGathering && sheets_checked_) TryVerdict();
}

VerdictInput Job::Input() const {
  VerdictInput input;
  input.page = page_.get();
  input.ranks = ranks();
  input.groups = layout_->page.groups;
  input.step = gatherer_->step();
  input.epoch = epoch();
  input.incarnation = incarnation();
  input.tensors = layout_->tensors;
  input.tensor_names = layout_->tensor_names;
  input.runs = works_->measured_runs();
  return input;
}

bool Job::SheetsIn() const {
  const uint64_t step = gatherer_->step();
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    if (!layout_->view.local(rank)) continue;
    if (page_->sheet(rank, step).commit.load(std::memory_order_acquire) != step) return false;
  }
  return true;
}

bool Job::AttemptsIn() const {
  for (const ItemSource& source : layout_->sources) {
    if (!gatherer_->announced(source.rank, source.bucket)) continue;
    if (gatherer_->attempt(source.rank, source.bucket) <
        page_->attempts(source.rank, gatherer_->step())[source.bucket]) {
      return false;
    }
  }
  return true;
}

bool Job::Present(uint32_t item) const {
  for (const RunParts& run : layout_->items[item].parts.runs) {
    if (presence_[run.tensor] != kAbsent) return true;
  }
  return false;
}

bool Job::CheckSheets() {
  const VerdictInput input = Input();
  sheets_at_ = absl::Now();
  if (step_began_ == absl::InfiniteFuture()) step_began_ = sheets_at_;
  Verdict verdict;
  if (!Judge::Sheets(input, &verdict) || !Judge::Presence(input, &presence_, &verdict)) {
    Conclude(verdict);
    return false;
  }
  sheets_checked_ = true;
  expect_norm_ = page_->sheet(0, input.step).clip_norm > 0;
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    works_->SetPresence(item, presence_, *page_, input.step);
    if (Present(item) && gatherer_->whole(item) && !Enough(item, requested_[item]))
      RequestMeasure(item);
  }
  FlushMeasures();
  return true;
}

bool Job::Enough(uint32_t item, const MeasureRequest& have) const {
  return have.step == gatherer_->step() && have.generation == gatherer_->generation(item) &&
         have.narrowed == works_->narrowed(item) && (have.norm || !expect_norm_);
}

bool Job::AllMeasured() const {
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (!layout_->view.owns(item)) continue;
    if (Present(item) && !(gatherer_->whole(item) && Enough(item, measured_[item]))) return false;
  }
  return true;
}

void Job::TryVerdict() {
  if (!alone()) return TryTogether();
  if (!sheets_checked_ && (!SheetsIn() || !AttemptsIn() || !CheckSheets())) return;
  if (!AllMeasured()) return;
  const absl::Time judged = absl::Now();
  Time(Phase::kMeasure, sheets_at_);
  Conclude(Judge::Decide(Input(), presence_));
  Time(Phase::kVerdict, judged);
}

void Job::Conclude(const Verdict& verdict) {
  FailPoint("before_verdict");
  JournaledVerdict record;
  record.step = gatherer_->step();
  record.kind = verdict.go ? VerdictKind::kGo : VerdictKind::kVoid;
  record.clip_factor = verdict.clip_factor;
  record.reason = verdict.go ? 0 : static_cast<uint64_t>(verdict.reason);
  record.detail = verdict.detail;
  journal_->Record(record);
  FailPoint("after_verdict");
  verdict_step_ = record.step;
  if (links_ != nullptr && layout_->view.chief()) {
    for (uint32_t member = 1; member < layout_->view.count; ++member)
      TellVerdict(member, verdict_step_);
  }
  if (verdict.go) {
    SetLoading(false);
    StartGo(verdict.clip_factor, /*resumed=*/false);
  } else {
    TellVoid(verdict);
    BeginStep(verdict_step_ + 1);
  }
}

void Job::TellVoid(const Verdict& verdict) {
  last_void_ = verdict;
  void_step_ = verdict_step_;
  Log(Severity::kWarning, "step.void",
      {{"job", name()},
       {"step", verdict_step_},
       {"reason", static_cast<uint64_t>(verdict.reason)},
       {"text", verdict.text}});
  for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket)
    SetTaken(bucket, verdict_step_);
  SetStepOver(verdict_step_, StepOutcome::kVoid);
  for (uint32_t rank = 0; rank < ranks(); ++rank)
    outbox_.emplace_back(rank, OutcomeTo(rank, verdict_step_));
  if (context_.metrics != nullptr) context_.metrics->Step(StepResult::kVoid);
}

void Job::SetTaken(uint32_t bucket, uint64_t step) {
  for (uint32_t rank = 0; rank < ranks(); ++rank) StoreCell(&page_->taken(rank, bucket), step);
}

void Job::SetStepOver(uint64_t step, StepOutcome outcome) {
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    StoreCell(&page_->step_over(rank), step << 8 | static_cast<uint64_t>(outcome));
  }
}

void Job::StartGo(double clip_factor, bool resumed) {
  phase_ = JobPhase::kRunning;
  verdict_at_ = absl::Now();
  const uint64_t step = verdict_step_;
  const uint32_t any = layout_->first_rank;  // all sheets are equal
  works_->SetScalars(page_->sheet(any, step), page_->groups(any, step), clip_factor);
  for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket) bucket_left_[bucket].store(0);
  uint64_t items = 0;
  for (size_t device = 0; device < runnable_.size(); ++device) {
    runnable_[device].clear();
    for (const ScheduledItem& entry : layout_->device_items[device]) {
      if (!Present(entry.item)) {
        for (const Holder& holder : works_->copy_out(entry.item).holders)
          holder.ready->store(step, std::memory_order_release);
        continue;
      }
      if (resumed && book_->word(entry.item).step == step) continue;
      runnable_[device].push_back(entry);
      for (const uint32_t bucket : layout_->items[entry.item].parts.buckets)
        bucket_left_[bucket].fetch_add(1);
      ++items;
    }
  }
  for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket) {
    if (bucket_left_[bucket].load() == 0) SetTaken(bucket, step);
  }
  items_to_enqueue_ = items;
  if (!alone()) items += AwaitItems();
  items_left_.store(items);
  ends_on_stream_ = EndsOnStream();
  if (items == 0) {
    SetStepOver(step, StepOutcome::kApplied);
    StepDone();
    return;
  }
  for (size_t device = 0; device < runnable_.size(); ++device) {
    if (!runnable_[device].empty())
      context_.scheduler.Enqueue(static_cast<int>(device), id(), runnable_[device]);
  }
  enqueued_ = true;
  if (!alone()) CopyOutLanded();
}

Job::GroupRun& Job::AcquireRun() {
  if (free_runs_.empty()) {
    runs_.emplace_back();
    runs_.back().job = this;
    runs_.back().index = runs_.size() - 1;
    return runs_.back();
  }
  GroupRun& run = runs_[free_runs_.back()];
  free_runs_.pop_back();
  return run;
}

void Job::RunGroup(int device, const ScheduledGroup& group) {
  DeviceRoom& room = devices_[device];
  Stream& stream = room.lane->stream();
  GroupRun& run = AcquireRun();
  run.device = device;
  run.step = verdict_step_;
  run.cost_seconds = group.cost_seconds;
  run.items.assign(group.items.begin(), group.items.end());
  run.works.clear();
  run.copies.clear();
  uint64_t staged_bytes = 0;
  for (const uint32_t item : run.items) {
    const ItemWord from = book_->word(item);
    const auto to = book_->Stage(item, run.step);
    MUOND_CHECK(to.has_value());
    works_->Point(item, from, *to);
    run.works.push_back(&works_->work(item));
    run.copies.push_back(&works_->copy_out(item));
    staged_bytes += layout_->items[item].need.slot_bytes + layout_->items[item].need.place_bytes;
    book_->Flipped(item);
  }
  const bool armed = context_.fail_points;
  const auto point = [&](FailPointName name) {
    if (armed) stream.Host([name] { FailPoint(name); });
  };
  point("before_stage");
  MUOND_CHECK_OK(room.executor->Run(run.works));
  point("after_stage");
  point("before_flip");
  for (const uint32_t item : run.items) {
    room.lane->ops().Flip(stream, {&journal_->word_cell(item), book_->word(item).Pack(), nullptr});
  }
  // A host function holds the stream up: of ranks whose streams wait, `taken` may come with the group's end.
  if (!ends_on_stream_) stream.Host([&run] { run.job->AfterFlip(run); });
  point("after_flip");
  point("before_copy_out");
  CopyOutOnLane(room, run);
  point("after_copy_out");
  for (const CopyOut* copy : run.copies) {
    for (const Holder& holder : copy->holders) stream.WriteCell(holder.ready, run.step);
  }
  point("after_ready_cell");
  items_to_enqueue_ -= run.items.size();
  if (ends_on_stream_ && items_to_enqueue_ == 0) {
    for (uint32_t rank = 0; rank < ranks(); ++rank) {
      stream.WriteCell(&page_->step_over(rank),
                       run.step << 8 | static_cast<uint64_t>(StepOutcome::kApplied));
    }
  }
  stream.Host([&run] { run.job->AfterReady(run); });
  for (const uint32_t item : run.items) book_->CopiedOut(item);
  if (context_.metrics != nullptr) context_.metrics->BytesStaged(staged_bytes);
}

void Job::CopyOutOnLane(DeviceRoom& room, GroupRun& run) {
  Lane& lane = *room.lane;
  if (context_.fail_points) {
    // One holder's copy, then the point, then everything again: as a process that dies between two stores leaves it.
    const CopyOut& first = *run.copies.front();
    if (!first.holders.empty())
      room.scatterer.RunHolder(lane.ops(), lane.stream(), first, first.holders.front());
    lane.stream().Host([] { FailPoint("mid_copy_out"); });
  }
  room.scatterer.Run(lane.ops(), lane.stream(), run.copies);
}

void Job::AfterFlip(const GroupRun& run) {
  for (const uint32_t item : run.items) {
    for (const uint32_t bucket : layout_->items[item].parts.buckets) {
      if (bucket_left_[bucket].fetch_sub(1, std::memory_order_acq_rel) == 1)
        SetTaken(bucket, run.step);
    }
  }
}

void Job::AfterReady(const GroupRun& run) {
  if (ends_on_stream_) AfterFlip(run);
  // Read before the last count goes: afterwards the loop may reuse the run.
  Mailbox& mailbox = context_.mailbox;
  const uint64_t job = id(), step = run.step, index = run.index, items = run.items.size();
  const bool last = items_left_.fetch_sub(items, std::memory_order_acq_rel) == items;
  if (last) {
    FailPoint("before_done");
    if (!ends_on_stream_) SetStepOver(step, StepOutcome::kApplied);
  }
  mailbox.Post(Completion{CompletionKind::kGroupDone, job, index});
  if (last) mailbox.Post(Completion{CompletionKind::kJobStepDone, job, step});
}

void Job::GroupDone(size_t index) {
  GroupRun& run = runs_[index];
  context_.scheduler.Finished(run.device, run.cost_seconds);
  if (links_ != nullptr) {
    for (const uint32_t item : run.items) together_->courier.Filled(item, run.step);
    PumpPuts();
  }
  free_runs_.push_back(index);
  enqueued_ = true;  // there may be room for more
}

void Job::StepDone() {
  if (phase_ != JobPhase::kRunning) return;  // it was given up meanwhile
  FailPoint("after_done");
  for (uint32_t rank = 0; rank < ranks(); ++rank)
    outbox_.emplace_back(rank, OutcomeTo(rank, verdict_step_));
  Time(Phase::kExecute, verdict_at_);
  if (step_began_ != absl::InfiniteFuture()) Time(Phase::kStep, step_began_);
  if (context_.metrics != nullptr) context_.metrics->Step(StepResult::kApplied);
  BeginStep(verdict_step_ + 1);
  if (!alone() && together_->lost_rank && layout_->view.chief()) orphan_wanted_ = true;
  if (!alone() && together_->next_verdict) return TakeVerdict(*together_->next_verdict);
  TryVerdict();
}

void Job::RankLost(uint32_t rank, const std::string& why) {
  if (orphan_wanted_ || phase_ == JobPhase::kOrphaned) return;
  if (links_ != nullptr) {
    together_->lost_rank = rank;
    together_->lost_why = why;
    together_->look_at = absl::InfinitePast();
    Tick(absl::Now());
    // Another member's word: its VOID ends the job here as well.
    if (!layout_->view.chief()) return;
    if (phase_ == JobPhase::kRunning) return;  // the verdict after this step's
  }
  orphan_wanted_ = true;
  if (phase_ == JobPhase::kGathering) Conclude(::muond::RankLost(rank, why));
}

void Job::Time(Phase phase, absl::Time since) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - since);
  Metrics::PhaseSeconds& mine = phase_seconds_[static_cast<size_t>(phase)];
  mine.last = seconds;
  // A running median: a step of a twentieth towards the newest value.
  mine.median += mine.count++ == 0
                     ? seconds
                     : (seconds > mine.median ? 0.05 : -0.05) * std::abs(seconds - mine.median);
  if (context_.metrics != nullptr) context_.metrics->StepSeconds(phase, seconds);
}

}  // namespace muond
