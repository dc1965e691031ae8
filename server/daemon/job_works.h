// JobWorks: the layout's parts as addresses: for every item what measure, execute and scatter are called with. Built once when
// the slabs are there; per step only slot and place pointers and scalars change.
// Threads: the StepLoop; device streams read scalars and write measurements.   Lifetime: layout, slabs and page are borrowed.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "proto/wire/job_page.h"
#include "server/daemon/job_layout.h"
#include "server/daemon/job_slabs.h"
#include "server/execute/executor.h"
#include "server/gather/verdict.h"
#include "server/scatter/scatterer.h"
#include "server/state/word.h"

namespace muond {

class JobWorks {
 public:
  static absl::StatusOr<std::unique_ptr<JobWorks>> Build(const JobLayout& layout,
                                                         const JobSlabs& slabs,
                                                         const JobPage& page);

  ItemWork& work(uint32_t item) { return works_[item]; }
  CopyOut& copy_out(uint32_t item) { return copies_[item]; }
  std::vector<MeasureTask>& measures(uint32_t item) { return measures_[item]; }
  absl::Span<const MeasuredRun> measured_runs() const { return measured_runs_; }
  Measurement& measurement(uint32_t run) { return measurements_[run]; }

  // Directs the item's work from the state of `from` to that of `to`; its copy-out reads the place of `to`.
  void Point(uint32_t item, const ItemWord& from, const ItemWord& to);
  void PointCopyOut(uint32_t item, const ItemWord& word);
  // Scalars of the step from the sheets (rank 0's; all are equal). REQUIRES: nothing that reads them is in flight.
  void SetScalars(const SheetHeader& sheet, const GroupScalars* groups, double clip_factor);
  // Which gradients the item's step reads, as the sheets say: of a partly present tensor, only the replicas that have one.
  void SetPresence(uint32_t item, absl::Span<const uint8_t> presence, const JobPage& page,
                   uint64_t step);
  // Undoes that: a new step may have them all.
  void ReadAllReplicas();
  bool narrowed(uint32_t item) const { return narrowed_[item]; }

  // Enqueues the gathering of a run's newest parameter, from the replica that is read, into `to`: dense, of the run's shape.
  void GatherParameter(uint32_t item, size_t run, Ops& ops, Stream& stream, const Matrix& to) const;

  // Where the run's newest parameter lies, in the replica that is read.
  absl::Span<const Block> parameter_blocks(uint32_t item, size_t run) const {
    return works_[item].is_muon ? works_[item].muon.parameter_in
                                : works_[item].adamw[run].parameter_in;
  }

  // State and staged parameter of one run in slot and place.
  float* momentum(uint32_t item, size_t run, uint32_t slot) const {
    return State(item, slot, runs(item)[run].first);
  }
  float* exp_avg(uint32_t item, size_t run, uint32_t slot) const {
    return State(item, slot, runs(item)[run].first);
  }
  float* exp_avg_sq(uint32_t item, size_t run, uint32_t slot) const {
    return State(item, slot, runs(item)[run].second);
  }
  double* step_count(uint32_t item, size_t run, uint32_t slot) const;

 private:
  JobWorks(const JobLayout& layout, const JobSlabs& slabs) : layout_(layout), slabs_(slabs) {}
  const std::vector<RunPlace>& runs(uint32_t item) const { return layout_.items[item].need.runs; }
  float* State(uint32_t item, uint32_t slot, uint64_t offset) const;
  char* StateBase(uint32_t item) const { return slabs_.states[layout_.items[item].device].data(); }
  Block ExchangeBlock(uint32_t item, size_t run) const;
  Block BlockOf(const RunParts& run, const Part& part, bool gradient) const;
  std::vector<Block> GradientOf(const RunParts& run) const;
  void SetGradient(uint32_t item, size_t run, const std::vector<Block>& blocks);
  absl::Status BuildHostPages();
  absl::Status BuildItem(uint32_t item, const JobPage& page);

  const JobLayout& layout_;
  const JobSlabs& slabs_;
  std::deque<ItemWork> works_;
  std::vector<CopyOut> copies_;
  std::vector<std::vector<MeasureTask>> measures_;
  // Measurements and scalars: what devices write and read in host memory. A slab, so that its pages are unpinned before the
  // addresses can be used again.
  std::unique_ptr<Slab> host_;
  absl::Span<Measurement> measurements_;  // by run of an item, as measured_runs_
  absl::Span<MuonScalars> muon_scalars_;
  absl::Span<AdamWScalars> adamw_scalars_;
  size_t runs_built_ = 0;
  std::vector<MeasuredRun> measured_runs_;
  std::vector<CoefficientTable> tables_;  // by group
  std::vector<bool> narrowed_;  // items whose gradient blocks lack absent replicas at the moment
  bool any_narrowed_ = false;
};

}  // namespace muond
