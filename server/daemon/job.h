// Job: one training run in this daemon, and the machine of its steps:
//
//   gathering --all sheets, all measured--> verdict --GO--> running --all ready cells--> gathering of the next step
//                                             '---VOID--------------------------------^
//
// The truth lies in the kept slabs (journal, page, slots); everything here can be built again from them, which is what Resume
// does after a predecessor died.
// Threads: the StepLoop, except AfterFlip and AfterReady, which run on device streams and touch atomics and cells only.
// Memory: a steady step allocates nothing here.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/daemon/catalog.h"
#include "server/daemon/cell_watch.h"
#include "server/daemon/job_layout.h"
#include "server/daemon/job_links.h"
#include "server/daemon/job_slabs.h"
#include "server/daemon/job_works.h"
#include "server/daemon/mailbox.h"
#include "server/execute/executor.h"
#include "server/gather/gatherer.h"
#include "server/gather/verdict.h"
#include "server/observe/metrics.h"
#include "server/peer/item_courier.h"
#include "server/schedule/scheduler.h"
#include "server/session/gate.h"
#include "server/state/journal.h"
#include "server/state/slot_book.h"

namespace muond {

// One device of the daemon: what all jobs share of it.
struct DeviceRoom {
  std::unique_ptr<Lane> lane;
  std::unique_ptr<Executor> executor;
  Scatterer scatterer;
};

// What a job needs of the loop. Borrowed for the job's life.
struct JobContext {
  Backend& backend;
  std::vector<DeviceRoom>& devices;
  Scheduler& scheduler;
  Mailbox& mailbox;
  SlabVault& vault;
  Metrics* metrics = nullptr;
  bool fail_points = false;    // one is armed: passages are enqueued on device streams too
  CellWatch* watch = nullptr;  // needed for ranks on GPUs
  uint64_t workspace_bytes =
      0;  // of each device, for more than one matrix at once; 0: a GPU's share of its memory
  LinkTable* links = nullptr;  // needed for jobs of several daemons
};

enum class JobPhase : uint8_t {
  kJoined = 1,     // no slabs yet
  kGathering = 2,  // of step()
  kRunning = 3,    // a GO is being carried out
  kOrphaned = 4,   // no ranks; state and parameters stay until the lease ends
};

class Job : private JobLinksOwner {
 public:
  Job(CatalogRecord record, std::unique_ptr<JobLayout> layout, const JobContext& context);
  ~Job();  // REQUIRES: not kRunning. Waits for what its streams still read.

  // Lifecycle (job.cc).
  absl::Status Keep();      // the catalogue
  absl::Status Allocate();  // once; RESOURCE_EXHAUSTED leaves the job as it was
  // The state of an earlier incarnation goes on here: slabs, journal, numbering of steps. `older` is kOrphaned and empty afterwards.
  absl::Status Adopt(Job& older);
  void Orphan();  // the ranks are gone or expelled; REQUIRES: not kRunning
  // A predecessor had orphaned it.
  absl::Status ResumeOrphan();
  void DropAll();

  // Recovery (job_resume.cc). Takes the slabs that a predecessor kept; then Resume finishes what has a verdict.
  absl::Status Import(KeptSlab slab) { return slabs_.Import(std::move(slab)); }
  absl::Status Resume();

  // Steps (job_step.cc).
  void Announced(uint32_t rank, uint32_t bucket);  // READY came: the cell tells the rest
  void SheetFilled(uint32_t rank);  // STEP (or HELLO) came: every cell of the rank is read
  void SheetCame(uint32_t rank);    // seen by the watch, maybe long after the frame
  void Measured(int device);        // the oldest measure of this job on the device is done
  void GroupDone(size_t run);       // a group has finished on its device
  void StepDone();                  // and with it the step
  void RankLost(uint32_t rank, const std::string& why);

  // With other members (job_peers.cc).
  bool alone() const { return layout_->view.alone(); }
  void ItemLanded(uint32_t item);  // its copy-out has ended on the stream
  void Tick(absl::Time now);
  // This daemon's ranks have left, and the others need nothing of it any more.
  bool ReadyToEnd();
  // Opens the links; the slabs are there.
  absl::Status OpenLinks();
  // Starts a group that the scheduler chose.
  void RunGroup(int device, const ScheduledGroup& group);
  uint32_t Room(uint32_t item) const { return book_->Room(item); }

  GateView Gate(uint32_t rank) const;
  Frame FrameTo(uint32_t rank, FrameType type) const;
  // The recorded outcome of a step that is over.
  Frame OutcomeTo(uint32_t rank, uint64_t step) const;
  // Frames to send, in order; the caller sends and clears them.
  std::vector<std::pair<uint32_t, Frame>>& outbox() { return outbox_; }
  // Devices on which this job has put work since the last call: the caller pumps them.
  bool TakeEnqueued() { return std::exchange(enqueued_, false); }
  // A rank was lost and the step that was running is over: the caller orphans the job.
  bool orphan_wanted() const { return orphan_wanted_ && phase_ != JobPhase::kRunning; }

  uint64_t id() const { return record_.job; }
  uint32_t incarnation() const { return record_.incarnation; }
  uint64_t epoch() const { return layout_->plan->epoch; }
  const std::string& name() const { return layout_->manifest->job; }
  const JobLayout& layout() const { return *layout_; }
  const CatalogRecord& record() const { return record_; }
  JobSlabs& slabs() { return slabs_; }
  const JobSlabs& slabs() const { return slabs_; }
  JobWorks& works() { return *works_; }
  JobPhase phase() const { return phase_; }
  bool has_slabs() const { return works_ != nullptr; }
  uint64_t verdict_step() const { return verdict_step_; }
  uint64_t finished_step() const {
    return phase_ == JobPhase::kRunning ? verdict_step_ - 1 : verdict_step_;
  }
  const ItemWord& word(uint32_t item) const { return book_->word(item); }
  uint32_t ranks() const { return static_cast<uint32_t>(layout_->ranks.size()); }
  CatalogRank rank_state(uint32_t rank) const;
  void SetRankState(uint32_t rank, CatalogRank state);
  // State was written since the last GO, perhaps not all that was meant: another incarnation must not go on with it.
  bool loading() const {
    return CatalogLoading(slabs_.catalog.data()).load(std::memory_order_acquire) != 0;
  }
  void SetLoading(bool loading);
  const Verdict& last_void() const { return last_void_; }
  uint64_t void_step() const { return void_step_; }  // of last_void(); 0: there was none
  absl::Span<const Metrics::PhaseSeconds> phase_seconds() const { return phase_seconds_; }

 private:
  struct MeasureRequest {
    uint64_t step = 0;
    uint32_t generation = 0;
    bool norm = false;
    bool narrowed = false;  // without the replicas that have no gradient
    bool operator==(const MeasureRequest&) const = default;
  };
  struct MeasureEntry {
    uint32_t item = 0;
    MeasureRequest request;
  };
  // What one device has been asked to measure, oldest first: batches are completed in order.
  struct MeasureQueue {
    std::vector<uint32_t> pending;
    std::vector<std::vector<MeasureEntry>> batches;  // from `oldest` on
    size_t oldest = 0;
    std::vector<std::vector<MeasureEntry>> spare;
    std::vector<MeasureTask> tasks;
  };
  // A group on a device.
  struct GroupRun {
    Job* job = nullptr;
    size_t index = 0;
    int device = 0;
    uint64_t step = 0;
    double cost_seconds = 0;
    std::vector<uint32_t> items;
    std::vector<ItemWork*> works;
    std::vector<CopyOut*> copies;
  };

  // job_peers.cc
  void LinkIsUp(uint32_t member) override;
  void LinkIsDown(uint32_t member) override;
  void FrameCame(uint32_t member, const Frame& frame) override;
  void PutDone(uint32_t member, uint64_t token, bool arrived) override;
  void CheckLocalSheets();
  void TryTogether();
  void Vote();
  void VoteCame(uint32_t member, uint64_t step);
  void TellVerdict(uint32_t member, uint64_t step);
  void VerdictCame(const Frame& frame);
  void TakeVerdict(const Frame& frame);
  void ItemArrived(uint32_t member, uint32_t item, uint64_t step);
  void CopyOutArrived(uint32_t item);
  void CloseLinks();
  uint64_t AwaitItems();  // how many items of others the running step still needs
  void CopyOutLanded();   // those that were here before the verdict was
  bool HasLanded(uint32_t item, uint64_t step) const;
  bool WaitsForItem(uint32_t item) const;
  void StartCourier();
  void PumpPuts();
  void MemberLost(uint32_t member, absl::Time since);
  VerdictInput LocalInput() const;
  uint32_t FirstRankOf(uint32_t member) const {
    return layout_->exchange.vote(member).ranks.front();
  }

  void InheritJournal(const Job& older, bool same_places);
  void CopyStates(const Job& older);
  absl::Status CopyParameters(Job& older);
  void
  BeginAfterVerdict();  // the page of a new incarnation: everything up to the newest verdict is over
  absl::Status ReserveWorkspace(Lane& lane, absl::Span<ItemWork* const> works);
  absl::Status BuildRooms();  // page, works, gatherer, book: from layout and slabs
  void BeginStep(uint64_t step);
  void ReadCell(uint32_t rank, uint32_t bucket);
  // Everything of the running step is on one device's stream, and only streams wait for it: then that stream ends the step itself.
  bool EndsOnStream() const;
  // Of a rank on a GPU: its stream writes the cells, when it gets there.
  bool WritesLater(uint32_t rank) const;
  void WatchGradient(uint32_t rank, uint32_t bucket);
  void WatchSheets();
  void ForgetCells();
  void RequestMeasure(uint32_t item);
  void FlushMeasures();
  void TryVerdict();
  bool SheetsIn() const;
  bool AttemptsIn() const;
  bool CheckSheets();  // once a step; false when that already gave a verdict
  bool Enough(uint32_t item, const MeasureRequest& have) const;
  bool AllMeasured() const;
  bool Present(uint32_t item) const;
  VerdictInput Input() const;
  void Conclude(const Verdict& verdict);
  void TellVoid(const Verdict& verdict);
  // Carries out the GO of step verdict_step_. `resumed`: only items whose word is older.
  void StartGo(double clip_factor, bool resumed);
  void CopyOutOnLane(DeviceRoom& room, GroupRun& run);
  GroupRun& AcquireRun();
  void AfterFlip(const GroupRun& run);
  void AfterReady(const GroupRun& run);
  void CopyOutLagging();
  void SetTaken(uint32_t bucket, uint64_t step);
  void SetStepOver(uint64_t step, StepOutcome outcome);
  void SyncLanes();
  void Time(Phase phase, absl::Time since);

  CatalogRecord record_;
  std::unique_ptr<JobLayout> layout_;
  JobContext context_;
  JobSlabs slabs_;
  JobPhase phase_ = JobPhase::kJoined;
  bool orphan_wanted_ = false;
  bool enqueued_ = false;

  // With slabs only.
  std::unique_ptr<JobPage> page_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<SlotBook> book_;
  std::unique_ptr<JobWorks> works_;
  std::unique_ptr<Gatherer> gatherer_;
  std::vector<DeviceRoom>& devices_;

  // The step being gathered, or, while running, the one with the newest verdict.
  uint64_t verdict_step_ = 0;
  bool sheets_checked_ = false;
  bool expect_norm_ = false;
  std::vector<uint8_t> presence_;
  std::vector<MeasureRequest> requested_, measured_;  // by item
  std::vector<MeasureQueue> measure_queues_;          // by device
  std::vector<uint32_t> whole_;
  std::vector<uint64_t> watched_;  // by rank and bucket: the step whose cell is watched for
  std::vector<std::vector<ScheduledItem>> runnable_;  // by device
  std::deque<GroupRun> runs_;
  std::vector<size_t> free_runs_;
  std::unique_ptr<std::atomic<uint32_t>[]> bucket_left_;
  std::atomic<uint64_t> items_left_{0};
  uint64_t items_to_enqueue_ = 0;
  bool ends_on_stream_ = false;  // EndsOnStream() of the running step

  // With other members only.
  struct Together {
    explicit Together(const JobLayout& layout)
        : courier(layout.view.count, layout.view.self, layout.page.items),
          votes(layout.view.count, 0),
          left(layout.view.count, false),
          landed(layout.page.items, 0),
          copying(layout.page.items, 0) {}
    ItemCourier courier;
    std::vector<uint64_t> votes;  // the chief's: newest step for which the member has voted
    std::vector<bool> left;       // members whose ranks have left
    std::vector<uint64_t> landed, copying;  // by item: step
    std::optional<Frame> next_verdict;      // that came while the step before is being finished
    bool sheets_differ = false;             // here already: nothing is measured, the chief will say
    uint64_t voting = 0;                    // the step whose vote is being put; 0: none
    absl::Time voted_at = absl::InfinitePast();
    std::optional<uint32_t> lost_rank;
    std::string lost_why;
    bool leaving = false;
    absl::Time look_at = absl::InfinitePast(), told_left_at = absl::InfinitePast();
  };
  std::unique_ptr<Together> together_;
  std::unique_ptr<JobLinks> links_;

  Verdict last_void_;
  uint64_t void_step_ = 0;
  std::vector<std::pair<uint32_t, Frame>> outbox_;
  absl::Time step_began_, verdict_at_, sheets_at_;
  std::vector<Metrics::PhaseSeconds> phase_seconds_;
};

}  // namespace muond
