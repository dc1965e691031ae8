#include "server/daemon/job.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr uint64_t kWorkspaceShare = 64;  // of a GPU's memory: 2.2 GiB of an H200's

}  // namespace

Job::Job(CatalogRecord record, std::unique_ptr<JobLayout> layout, const JobContext& context)
    : record_(std::move(record)),
      layout_(std::move(layout)),
      context_(context),
      slabs_(record_.job, context.backend, context.vault),
      devices_(context.devices),
      step_began_(absl::InfiniteFuture()) {
  phase_seconds_.resize(kPhases);
  runnable_.resize(devices_.size());
  measure_queues_.resize(devices_.size());
}

Job::~Job() {
  ForgetCells();
  SyncLanes();
  CloseLinks();
}

void Job::CloseLinks() {
  if (links_ == nullptr) return;
  links_.reset();
  // What is still being put reads the exchange slab until the carrier has said that it is done.
  if (context_.links->carrier->puts_pending() > 0)
    context_.links->retired.push_back(std::move(slabs_.exchange.slab));
}

void Job::SyncLanes() {
  // A failure of a stream is seen, and reported, by who enqueues on it next.
  if (!has_slabs()) return;
  for (DeviceRoom& room : devices_) (void)room.lane->stream().Synchronize();
}

absl::Status Job::Keep() { return slabs_.KeepCatalog(WriteCatalog(record_)); }

absl::Status Job::Allocate() {
  if (has_slabs()) return absl::OkStatus();
  if (absl::Status status = slabs_.Allocate(*layout_, record_.sessions); !status.ok())
    return status;
  Journal(slabs_.journal.data(), layout_->page.items).Format(id(), incarnation(), layout_->state);
  JobPage(slabs_.page.data(), layout_->page).Format(id(), incarnation());
  if (absl::Status status = BuildRooms(); !status.ok()) return status;
  if (absl::Status status = OpenLinks(); !status.ok()) return status;
  BeginAfterVerdict();
  return absl::OkStatus();
}

void Job::BeginAfterVerdict() {
  if (const auto newest = journal_->newest_verdict()) verdict_step_ = newest->step;
  for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket)
    SetTaken(bucket, verdict_step_);
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    for (uint32_t item = 0; item < layout_->page.items; ++item) {
      page_->parameter_ready(rank, item).store(verdict_step_, std::memory_order_release);
    }
  }
  SetStepOver(verdict_step_, StepOutcome::kApplied);
  BeginStep(verdict_step_ + 1);
}

absl::Status Job::ReserveWorkspace(Lane& lane, absl::Span<ItemWork* const> works) {
  const DeviceInfo& info = lane.device().info();
  uint64_t most = context_.workspace_bytes;
  if (most == 0 && info.kind == DeviceKind::kCuda) most = info.memory_bytes / kWorkspaceShare;
  // Several jobs share it: it grows to what the largest wants. A full device serves with the least.
  if (most > 0 && lane.Reserve(GroupWorkspaceBytes(lane.ops(), works, most)).ok())
    return absl::OkStatus();
  return lane.Reserve(WorkspaceBytes(lane.ops(), works));
}

absl::Status Job::BuildRooms() {
  page_ = std::make_unique<JobPage>(slabs_.page.data(), layout_->page);
  journal_ = std::make_unique<Journal>(slabs_.journal.data(), layout_->page.items);
  if (absl::Status status = journal_->Check(id()); !status.ok()) return status;
  auto works = JobWorks::Build(*layout_, slabs_, *page_);
  if (!works.ok()) return works.status();
  for (size_t device = 0; device < devices_.size(); ++device) {
    std::vector<ItemWork*> of_device;
    for (const ScheduledItem& entry : layout_->device_items[device])
      of_device.push_back(&(*works)->work(entry.item));
    if (absl::Status status = ReserveWorkspace(*devices_[device].lane, of_device); !status.ok())
      return status;
  }
  works_ = *std::move(works);
  book_ = std::make_unique<SlotBook>(layout_->state, *journal_);
  gatherer_ = std::make_unique<Gatherer>(layout_->page.ranks, layout_->page.buckets,
                                         layout_->page.items, layout_->sources);
  requested_.assign(layout_->page.items, {});
  measured_.assign(layout_->page.items, {});
  presence_.assign(layout_->page.tensors, kAbsent);
  watched_.assign(size_t{layout_->page.ranks} * layout_->page.buckets, 0);
  bucket_left_ = std::make_unique<std::atomic<uint32_t>[]>(layout_->page.buckets);
  return absl::OkStatus();
}

void Job::Orphan() {
  MUOND_CHECK(phase_ != JobPhase::kRunning);
  orphan_wanted_ = false;
  ForgetCells();
  for (uint64_t session : record_.sessions) {
    if (session != 0) (void)context_.vault.Revoke(session);
  }
  if (!has_slabs()) {
    phase_ = JobPhase::kOrphaned;
    return;
  }
  StoreCell(&page_->header().poison, kPoison);
  SyncLanes();
  phase_ = JobPhase::kOrphaned;
  slabs_.DropGradients();
}

void Job::DropAll() {
  ForgetCells();
  SyncLanes();
  CloseLinks();
  for (uint64_t session : record_.sessions) {
    if (session != 0) (void)context_.vault.Revoke(session);
  }
  slabs_.DropAll();
}

CatalogRank Job::rank_state(uint32_t rank) const {
  return static_cast<CatalogRank>(
      CatalogRankState(slabs_.catalog.data(), rank).load(std::memory_order_relaxed));
}

void Job::SetRankState(uint32_t rank, CatalogRank state) {
  CatalogRankState(slabs_.catalog.data(), rank)
      .store(static_cast<uint64_t>(state), std::memory_order_release);
}

GateView Job::Gate(uint32_t rank) const {
  GateView view;
  view.known = true;
  view.job = id();
  view.rank = rank;
  view.incarnation = incarnation();
  view.buckets = layout_->page.buckets;
  view.epoch = epoch();
  view.verdict_step = verdict_step_;
  view.verdict_over = phase_ != JobPhase::kRunning;
  return view;
}

void Job::SetLoading(bool loading) {
  Cell& mark = CatalogLoading(slabs_.catalog.data());
  if ((mark.load(std::memory_order_relaxed) != 0) != loading)
    mark.store(loading ? 1 : 0, std::memory_order_release);
}

Frame Job::FrameTo(uint32_t rank, FrameType type) const {
  Frame frame;
  frame.type = type;
  frame.job = id();
  frame.session = record_.sessions[rank];
  frame.rank = rank;
  frame.incarnation = incarnation();
  frame.epoch = epoch();
  return frame;
}

Frame Job::OutcomeTo(uint32_t rank, uint64_t step) const {
  Frame frame = FrameTo(rank, FrameType::kDone);
  frame.step = step;
  frame.bucket = kAllBuckets;
  // Older than the journal's two records: the rank has long been told, and stepped on.
  const auto verdict = journal_->verdict(step);
  if (verdict && verdict->kind == VerdictKind::kVoid) {
    frame.type = FrameType::kVoid;
    frame.bucket = verdict->detail;
    frame.value = verdict->reason;
  }
  return frame;
}

}  // namespace muond
