#include "server/daemon/job_works.h"

#include <algorithm>
#include <map>
#include <new>

#include "kernels/optim/adamw.h"

namespace muond {
namespace {

absl::StatusOr<CoefficientTable> TableOf(const GroupSpec& group) {
  if (group.table == "custom") return CustomCoefficientTable(group.custom_steps, group.steps);
  return FindCoefficientTable(group.table, group.steps);
}

bool IsSame(const JobLayout& layout, const Part& part) {
  return layout.ranks[part.rank]->shards[part.shard].replica_kind == ReplicaKind::kSame;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobWorks>> JobWorks::Build(const JobLayout& layout,
                                                          const JobSlabs& slabs,
                                                          const JobPage& page) {
  std::unique_ptr<JobWorks> works(new JobWorks(layout, slabs));
  for (const GroupSpec& group : layout.manifest->groups) {
    works->tables_.emplace_back();
    if (group.rule != Rule::kMuon) continue;
    auto table = TableOf(group);
    if (!table.ok()) return table.status();
    works->tables_.back() = *std::move(table);
  }
  const size_t items = layout.items.size();
  works->works_.resize(items);
  works->copies_.resize(items);
  works->measures_.resize(items);
  works->narrowed_.assign(items, false);
  if (absl::Status status = works->BuildHostPages(); !status.ok()) return status;
  for (uint32_t item = 0; item < items; ++item) {
    if (absl::Status status = works->BuildItem(item, page); !status.ok()) return status;
  }
  return works;
}

absl::Status JobWorks::BuildHostPages() {
  size_t runs = 0;
  for (const ItemLayout& item : layout_.items) runs += item.parts.runs.size();
  const size_t bytes = runs * (sizeof(Measurement) + sizeof(MuonScalars) + sizeof(AdamWScalars));
  auto slab = CreateHostSlab("works", std::max<size_t>(bytes, 1));
  if (!slab.ok()) return slab.status();
  host_ = *std::move(slab);
  char* at = static_cast<char*>(host_->data());
  const auto place = [&at, runs]<typename T>(absl::Span<T>* to) {
    static_assert(alignof(T) <= 8 && sizeof(T) % 8 == 0);
    T* const first = reinterpret_cast<T*>(at);
    for (size_t i = 0; i < runs; ++i) new (first + i) T();
    *to = {first, runs};
    at += runs * sizeof(T);
  };
  place(&measurements_);
  place(&muon_scalars_);
  place(&adamw_scalars_);
  return absl::OkStatus();
}

Block JobWorks::BlockOf(const RunParts& run, const Part& part, bool gradient) const {
  const TensorSpec& tensor = layout_.manifest->tensors[run.tensor];
  const BlockLayout& at = layout_.rank_layouts[part.rank].blocks[part.shard];
  const DType dtype = gradient ? tensor.gradient_type : tensor.parameter_type;
  const HeldSlab& slab = gradient ? slabs_.gradients[part.rank] : slabs_.parameters[part.rank];
  // An orphaned job has no gradients: nothing reads them until there are ranks again.
  char* base =
      slab.held() ? slab.data() + (gradient ? at.gradient_offset : at.parameter_offset) : nullptr;
  Block block;
  block.data = base == nullptr
                   ? nullptr
                   : base + static_cast<uint64_t>(part.rectangle.offset) * SizeOf(dtype);
  block.row = part.rectangle.row;
  block.col = part.rectangle.col;
  block.rows = part.rectangle.rows;
  block.cols = part.rectangle.cols;
  block.ld = part.rectangle.ld;
  block.dtype = dtype;
  block.replica = gradient && !IsSame(layout_, part) ? part.replica : 0;
  return block;
}

// Where a run's parameter lies in the exchange slab: dense, as in a staged place.
Block JobWorks::ExchangeBlock(uint32_t item, size_t run) const {
  const RunParts& parts = layout_.items[item].parts.runs[run];
  Block block;
  block.data =
      slabs_.exchange.data() + layout_.exchange.parameter(item) + runs(item)[run].parameter;
  block.rows = parts.rows;
  block.cols = parts.cols;
  block.ld = parts.cols;
  block.dtype = layout_.manifest->tensors[parts.tensor].parameter_type;
  return block;
}

std::vector<Block> JobWorks::GradientOf(const RunParts& run) const {
  std::vector<Block> blocks;
  for (const Part& part : run.parts) {
    if (part.provides || !IsSame(layout_, part)) blocks.push_back(BlockOf(run, part, true));
  }
  return blocks;
}

absl::Status JobWorks::BuildItem(uint32_t index, const JobPage& page) {
  const ItemLayout& item = layout_.items[index];
  ItemWork& work = works_[index];
  CopyOut& copy = copies_[index];
  std::map<uint32_t, Holder> holders;
  work.is_muon = item.rule == Rule::kMuon;
  const size_t runs = item.parts.runs.size();
  if (work.is_muon) {
    work.muon_scalars = &muon_scalars_[runs_built_];
  } else {
    work.adamw_scalars = adamw_scalars_.subspan(runs_built_, runs);
  }
  for (size_t r = 0; r < runs; ++r) {
    const RunParts& run = item.parts.runs[r];
    const TensorSpec& tensor = layout_.manifest->tensors[run.tensor];
    const std::vector<Block> gradient = GradientOf(run);
    std::vector<Block> parameter_in;
    for (const Part& part : run.parts) {
      if (part.provides) parameter_in.push_back(BlockOf(run, part, false));
      Holder& holder = holders[part.rank];
      holder.rank = part.rank;
      holder.ready = &page.parameter_ready(part.rank, index);
      holder.runs.resize(item.parts.runs.size());
      holder.runs[r].push_back(BlockOf(run, part, false));
    }
    const Matrix staged{nullptr, run.rows, run.cols, run.cols, tensor.parameter_type};
    copy.shapes.push_back(staged);
    Measurement* const measured = &measurements_[runs_built_++];
    MeasureTask measure;
    measure.blocks = gradient;
    measure.rows = run.rows;
    measure.cols = run.cols;
    measure.result = measured;
    measures_[index].push_back(std::move(measure));
    measured_runs_.push_back(
        {run.tensor, static_cast<uint64_t>(run.rows) * static_cast<uint64_t>(run.cols), measured});
    if (work.is_muon) {
      work.muon.rows = run.rows;
      work.muon.cols = run.cols;
      work.muon.gradient = gradient;
      work.muon.parameter_in = std::move(parameter_in);
      work.muon.parameter_out = staged;
      work.muon.scalars = work.muon_scalars;
      work.muon.table = &tables_[item.group];
    } else {
      AdamWTask task;
      task.rows = run.rows;
      task.cols = run.cols;
      task.gradient = gradient;
      task.parameter_in = std::move(parameter_in);
      task.parameter_out = staged;
      task.scalars = &work.adamw_scalars[r];
      work.adamw.push_back(std::move(task));
    }
  }
  for (auto& [rank, holder] : holders) copy.holders.push_back(std::move(holder));
  if (!layout_.view.alone() && layout_.view.owns(index)) {
    // The other members get it from the exchange slab: one more holder.
    Holder& exchange = copy.holders.emplace_back();
    exchange.rank = kExchangeHolder;
    exchange.ready =
        reinterpret_cast<Cell*>(slabs_.exchange.data() + layout_.exchange.filled(index));
    for (size_t r = 0; r < runs; ++r) exchange.runs.push_back({ExchangeBlock(index, r)});
  }
  copy.Finish();
  return absl::OkStatus();
}

float* JobWorks::State(uint32_t item, uint32_t slot, uint64_t offset) const {
  return reinterpret_cast<float*>(StateBase(item) + layout_.state.SlotOffset(item, slot) + offset);
}

double* JobWorks::step_count(uint32_t item, size_t run, uint32_t slot) const {
  return reinterpret_cast<double*>(StateBase(item) + layout_.state.SlotOffset(item, slot) +
                                   runs(item)[run].step);
}

void JobWorks::PointCopyOut(uint32_t item, const ItemWord& word) {
  char* place = layout_.view.owns(item)
                    ? StateBase(item) + layout_.state.PlaceOffset(item, word.place)
                    : slabs_.exchange.data() + layout_.exchange.parameter(item);
  for (size_t run = 0; run < copies_[item].tasks.size(); ++run) {
    copies_[item].tasks[run].source.data = place + runs(item)[run].parameter;
  }
}

void JobWorks::Point(uint32_t item, const ItemWord& from, const ItemWord& to) {
  PointCopyOut(item, to);
  ItemWork& work = works_[item];
  const std::vector<ScatterTask>& staged = copies_[item].tasks;
  if (work.is_muon) {
    work.muon.momentum_in = momentum(item, 0, from.slot);
    work.muon.momentum_out = momentum(item, 0, to.slot);
    work.muon.parameter_out.data = staged[0].source.data;
    return;
  }
  for (size_t run = 0; run < work.adamw.size(); ++run) {
    AdamWTask& task = work.adamw[run];
    task.exp_avg_in = exp_avg(item, run, from.slot);
    task.exp_avg_out = exp_avg(item, run, to.slot);
    task.exp_avg_sq_in = exp_avg_sq(item, run, from.slot);
    task.exp_avg_sq_out = exp_avg_sq(item, run, to.slot);
    task.step_in = step_count(item, run, from.slot);
    task.step_out = step_count(item, run, to.slot);
    task.parameter_out.data = staged[run].source.data;
  }
}

void JobWorks::GatherParameter(uint32_t item, size_t run, Ops& ops, Stream& stream,
                               const Matrix& to) const {
  for (const Block& block : parameter_blocks(item, run)) {
    ScatterTask task;
    task.source = {block.data, block.rows, block.cols, block.ld, block.dtype};
    Block part;
    part.data = static_cast<char*>(to.data) +
                static_cast<uint64_t>(block.row * to.ld + block.col) * SizeOf(to.dtype);
    part.rows = block.rows;
    part.cols = block.cols;
    part.ld = to.ld;
    part.dtype = to.dtype;
    task.destinations.push_back(part);
    ops.Scatter(stream, absl::MakeConstSpan(&task, 1));
  }
}

void JobWorks::SetScalars(const SheetHeader& sheet, const GroupScalars* groups,
                          double clip_factor) {
  for (uint32_t index = 0; index < works_.size(); ++index) {
    const ItemLayout& item = layout_.items[index];
    ItemWork& work = works_[index];
    for (size_t run = 0; run < item.parts.runs.size(); ++run) {
      const uint32_t tensor = item.parts.runs[run].tensor;
      const int32_t group = layout_.manifest->tensors[tensor].group;
      const GroupScalars& g = groups[group];
      const double gradient_scale =
          clip_factor / (layout_.tensors[tensor].divisor * sheet.loss_scale);
      if (work.is_muon) {
        const double scale = UpdateScaleFactor(layout_.manifest->groups[group].update_scale,
                                               work.muon.rows, work.muon.cols);
        *work.muon_scalars = {g.lr,  g.weight_decay, g.momentum,     g.eps,
                              scale, gradient_scale, g.nesterov != 0};
      } else {
        work.adamw_scalars[run] = {g.lr, g.weight_decay, g.beta1, g.beta2, g.eps, gradient_scale};
      }
    }
  }
}

void JobWorks::SetPresence(uint32_t index, absl::Span<const uint8_t> presence, const JobPage& page,
                           uint64_t step) {
  const ItemLayout& item = layout_.items[index];
  ItemWork& work = works_[index];
  bool partly = false;
  for (size_t r = 0; r < item.parts.runs.size(); ++r) {
    const uint8_t present = presence[item.parts.runs[r].tensor];
    if (!work.is_muon) work.adamw[r].present = present != kAbsent;
    partly = partly || present == kPartlyPresent;
  }
  if (!partly) return;
  for (size_t r = 0; r < item.parts.runs.size(); ++r) {
    const RunParts& run = item.parts.runs[r];
    if (presence[run.tensor] != kPartlyPresent) continue;
    std::vector<Block> gradient;
    for (const Part& part : run.parts) {
      const bool has = page.present(part.rank, step)[run.tensor / 64] >> (run.tensor % 64) & 1;
      if (has) gradient.push_back(BlockOf(run, part, true));
    }
    SetGradient(index, r, gradient);
  }
  narrowed_[index] = any_narrowed_ = true;
}

void JobWorks::SetGradient(uint32_t item, size_t run, const std::vector<Block>& blocks) {
  measures_[item][run].blocks = blocks;
  ItemWork& work = works_[item];
  (work.is_muon ? work.muon.gradient : work.adamw[run].gradient) = blocks;
}

void JobWorks::ReadAllReplicas() {
  if (!any_narrowed_) return;
  any_narrowed_ = false;
  for (uint32_t item = 0; item < works_.size(); ++item) {
    if (!narrowed_[item]) continue;
    narrowed_[item] = false;
    const std::vector<RunParts>& runs = layout_.items[item].parts.runs;
    for (size_t run = 0; run < runs.size(); ++run) SetGradient(item, run, GradientOf(runs[run]));
  }
}

}  // namespace muond
