#include "kernels/capi/muon_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

constexpr uint64_t kAlignment = 256;
uint64_t Aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

struct MuonPlan::Layout {
  uint64_t update_scales, scalars, rest;  // offsets; the gradients' addresses come first
  Layout(size_t items, size_t addresses)
      : update_scales(Aligned(addresses * sizeof(void*))),
        scalars(update_scales + Aligned(items * sizeof(double))),
        rest(scalars + Aligned(items * sizeof(MuonScalars))) {}
};

uint64_t MuonPlan::WorkspaceBytes(Engine& engine, const CoefficientTable& table,
                                  absl::Span<const MuonPlanItem> items, size_t addresses,
                                  uint64_t limit_bytes) {
  const Layout layout(items.size(), addresses);
  std::vector<MuonItem> shapes(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    shapes[i].rows = items[i].parameter.rows;
    shapes[i].cols = items[i].parameter.cols;
    shapes[i].table = &table;
  }
  return layout.rest +
         MuonWorkspaceBytes(engine.ops(), shapes, limit_bytes - std::min(limit_bytes, layout.rest));
}

absl::StatusOr<std::unique_ptr<MuonPlan>> MuonPlan::Create(Engine& engine, CoefficientTable table,
                                                           absl::Span<const MuonPlanItem> items,
                                                           size_t addresses, void* workspace,
                                                           uint64_t bytes) {
  const uint64_t needed = WorkspaceBytes(engine, table, items, addresses, 0);
  if (bytes < needed) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes of workspace, %d are needed for the largest of %d matrices",
                        bytes, needed, items.size()));
  }
  const Layout layout(items.size(), addresses);
  auto plan = std::unique_ptr<MuonPlan>(new MuonPlan(engine, std::move(table), addresses));
  char* const memory = static_cast<char*>(workspace);
  plan->gradients_ = reinterpret_cast<const void**>(memory);
  plan->update_scales_ = reinterpret_cast<double*>(memory + layout.update_scales);
  plan->scalars_ = reinterpret_cast<MuonScalars*>(memory + layout.scalars);
  plan->rest_ = memory + layout.rest;
  plan->rest_bytes_ = bytes - layout.rest;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& [gradient, from, parameter, momentum] = items[i];
    if (from >= addresses) {
      return absl::InvalidArgumentError(
          absl::StrFormat("item %d takes gradient %d of %d", i, from, addresses));
    }
    MuonItem item;
    item.rows = parameter.rows;
    item.cols = parameter.cols;
    item.gradient = {{gradient.data, 0, 0, gradient.rows, gradient.cols, gradient.ld,
                      gradient.dtype, 0, plan->gradients_ + from}};
    item.parameter_in = {
        {parameter.data, 0, 0, parameter.rows, parameter.cols, parameter.ld, parameter.dtype, 0}};
    item.parameter_out = parameter;
    item.momentum_in = momentum;
    item.momentum_out = momentum;
    item.scalars = plan->scalars_ + i;
    item.table = &plan->table_;
    plan->items_.push_back(std::move(item));
  }
  return plan;
}

absl::Status MuonPlan::Step(void* cuda_stream, const SharedScalars& scalars, UpdateScale scale,
                            absl::Span<const void* const> gradients) {
  if (gradients.size() != addresses_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d gradients for a plan of %d", gradients.size(), addresses_));
  }
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (reinterpret_cast<uintptr_t>(gradients[i]) % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "gradient %d at %p: a plan needs addresses that are multiples of 16", i, gradients[i]));
    }
  }
  const std::unique_ptr<Stream> stream = engine_.StreamFor(cuda_stream);
  if (stream == nullptr) return absl::InternalError("no stream");
  engine_.Put(*stream, gradients_, gradients.data(), gradients.size() * sizeof(void*));
  if (scale != scale_) {
    std::vector<double> factors;
    for (const MuonItem& item : items_)
      factors.push_back(UpdateScaleFactor(scale, item.rows, item.cols));
    engine_.Put(*stream, update_scales_, factors.data(), factors.size() * sizeof(double));
    scale_ = scale;
  }
  engine_.Spread(*stream, scalars, update_scales_, items_.size(), scalars_);
  const absl::Status status = engine_.Replay(*stream, recording_, [this](Stream& on) {
    return MuonStep(engine_.ops(), on, items_, rest_, rest_bytes_);
  });
  const absl::Status finished = engine_.Finish(*stream);
  return status.ok() ? finished : status;
}

}  // namespace muond
