// What a successor does with the slabs of a dead stepper, and what an incarnation does with those of the one before.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/daemon/job.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"

namespace muond {

absl::Status Job::Resume() {
  FailPoint("recover_begin");
  // The dead process's queued work may have written to its journal until it was reaped: that page is never read again.
  if (absl::Status status = slabs_.RenewJournal(layout_->page.items); !status.ok()) return status;
  if (absl::Status status = BuildRooms(); !status.ok()) return status;

  if (absl::Status status = OpenLinks(); !status.ok()) return status;
  CopyOutLagging();
  const auto newest = journal_->newest_verdict();
  verdict_step_ = newest ? newest->step : 0;
  if (!newest) {
    BeginStep(1);
  } else if (newest->kind == VerdictKind::kVoid) {
    for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket)
      SetTaken(bucket, newest->step);
    SetStepOver(newest->step, StepOutcome::kVoid);
    last_void_ = Recorded(newest->step, static_cast<VoidReason>(newest->reason), newest->detail,
                          layout_->tensor_names);
    void_step_ = newest->step;
    BeginStep(newest->step + 1);
  } else {
    // Sheets and gradients of the step are intact: `taken` lags for every item that has not flipped.
    gatherer_->Begin(newest->step);
    Verdict verdict;
    if (!Judge::Presence(alone() ? Input() : LocalInput(), &presence_, &verdict)) {
      return absl::DataLossError(
          absl::StrFormat("job '%s': step %d has a GO, but its sheets say: %s", name(),
                          newest->step, verdict.text));
    }
    for (uint32_t item = 0; item < layout_->page.items; ++item) {
      if (layout_->view.owns(item)) works_->SetPresence(item, presence_, *page_, newest->step);
    }
    StartGo(newest->clip_factor, /*resumed=*/true);
  }
  FailPoint("recover_end");
  return absl::OkStatus();
}

namespace {

// Equal plans of equal manifests put every slot where it was.
bool SamePlaces(const JobLayout& a, const JobLayout& b) {
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (a.items[i].device != b.items[i].device) return false;
  }
  return true;
}

bool SameShards(const RankLayout& a, const RankManifest& x, const RankLayout& b,
                const RankManifest& y) {
  if (a.parameter_bytes != b.parameter_bytes || x.shards.size() != y.shards.size()) return false;
  for (size_t i = 0; i < x.shards.size(); ++i) {
    const ShardSpec &p = x.shards[i], &q = y.shards[i];
    if (p.tensor != q.tensor || p.offset != q.offset || p.extent != q.extent) return false;
  }
  return true;
}

}  // namespace

absl::Status Job::Adopt(Job& older) {
  MUOND_CHECK(older.phase_ == JobPhase::kOrphaned);
  if (!alone() || !older.alone()) {
    return absl::UnimplementedError(absl::StrFormat(
        "job '%s' is or was one of several daemons: its state is not adopted; restore it", name()));
  }
  if (!older.has_slabs())
    return absl::NotFoundError(absl::StrFormat("job '%s' never had any state", name()));
  if (layout_->items.size() != older.layout_->items.size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("job '%s' has %d items, the state that is held %d", name(),
                        layout_->items.size(), older.layout_->items.size()));
  }
  const bool same_places = SamePlaces(*layout_, *older.layout_);
  bool same_shards = ranks() == older.ranks();
  for (uint32_t rank = 0; same_shards && rank < ranks(); ++rank) {
    same_shards = SameShards(layout_->rank_layouts[rank], *layout_->ranks[rank],
                             older.layout_->rank_layouts[rank], *older.layout_->ranks[rank]);
  }
  if (same_places) std::swap(slabs_.states, older.slabs_.states);
  if (same_shards) std::swap(slabs_.parameters, older.slabs_.parameters);
  absl::Status status = slabs_.Allocate(*layout_, record_.sessions);
  if (status.ok()) {
    Journal(slabs_.journal.data(), layout_->page.items).Format(id(), incarnation(), layout_->state);
    JobPage(slabs_.page.data(), layout_->page).Format(id(), incarnation());
    InheritJournal(older, same_places);
    status = BuildRooms();
  }
  if (status.ok() && !same_places) CopyStates(older);
  if (status.ok() && !same_shards) status = CopyParameters(older);
  if (status.ok()) status = Keep();
  if (!status.ok()) {
    if (same_places) std::swap(slabs_.states, older.slabs_.states);
    if (same_shards) std::swap(slabs_.parameters, older.slabs_.parameters);
    slabs_.DropAll();
    return status;
  }
  // The new catalogue names what is needed: from here on the rest is the older incarnation's alone.
  older.slabs_.DropAll();
  BeginAfterVerdict();
  return absl::OkStatus();
}

void Job::InheritJournal(const Job& older, bool same_places) {
  Journal mine(slabs_.journal.data(), layout_->page.items);
  mine.CopyVerdicts(*older.journal_);
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    ItemWord word = older.journal_->word(item);
    if (!same_places) word = {word.step, layout_->state.first_slot(item), 0};
    mine.word_cell(item).store(word.Pack(), std::memory_order_release);
  }
}

void Job::CopyStates(const Job& older) {
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    const ItemLayout& from = older.layout_->items[item];
    const ItemLayout& to = layout_->items[item];
    const char* source = older.slabs_.states[from.device].data() +
                         older.layout_->state.SlotOffset(item, older.journal_->word(item).slot);
    char* destination = slabs_.states[to.device].data() +
                        layout_->state.SlotOffset(item, layout_->state.first_slot(item));
    devices_[to.device].lane->stream().Copy(destination, source, to.need.slot_bytes);
  }
  SyncLanes();
}

absl::Status Job::CopyParameters(Job& older) {
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    const ItemLayout& layout = layout_->items[item];
    Lane& lane = *devices_[layout.device].lane;
    // Through one staged place: where the next step of the item would stage it.
    const ItemWord word{0, 0, 0};
    works_->PointCopyOut(item, word);
    std::vector<ScatterTask>& tasks = works_->copy_out(item).tasks;
    for (size_t run = 0; run < tasks.size(); ++run) {
      older.works_->GatherParameter(item, run, lane.ops(), lane.stream(), tasks[run].source);
    }
    lane.ops().Scatter(lane.stream(), tasks);
    if (absl::Status status = lane.stream().Synchronize(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Job::ResumeOrphan() {
  slabs_.gradients.resize(ranks());
  if (absl::Status status = BuildRooms(); !status.ok()) return status;
  if (const auto newest = journal_->newest_verdict()) verdict_step_ = newest->step;
  phase_ = JobPhase::kOrphaned;
  return absl::OkStatus();
}

void Job::CopyOutLagging() {
  for (uint32_t item = 0; item < layout_->page.items; ++item) {
    if (!layout_->view.owns(item)) continue;
    const ItemWord& word = book_->word(item);
    DeviceRoom& room = devices_[layout_->items[item].device];
    for (const Holder& holder : works_->copy_out(item).holders) {
      if (holder.ready->load(std::memory_order_acquire) >= word.step) continue;
      works_->PointCopyOut(item, word);
      room.scatterer.RunHolder(room.lane->ops(), room.lane->stream(), works_->copy_out(item),
                               holder);
      room.lane->stream().WriteCell(holder.ready, word.step);
    }
  }
  // Places are free only after this.
  SyncLanes();
  if (!alone()) StartCourier();  // again: the exchange slab holds more now
}

}  // namespace muond
