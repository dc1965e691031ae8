#include "server/daemon/local_plans.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_format.h"
#include "kernels/optim/cost.h"
#include "proto/types/items.h"
#include "server/daemon/job_slabs.h"

namespace muond {
namespace {

double CostOf(const Manifest& manifest, const PlanItem& item, const CostModel& model, DType iterate) {
  double seconds = 0;
  for (const Segment& segment : item.segments) {
    const TensorSpec& tensor = manifest.tensors[segment.tensor];
    const int64_t rows = segment.row_end - segment.row_begin, cols = ViewOf(tensor).cols;
    if (item.rule == Rule::kAdamW) {
      seconds += model.Seconds(AdamWCost(rows * cols, tensor.gradient_type, tensor.parameter_type), 1);
      continue;
    }
    const auto table = FindCoefficientTable("jordan", manifest.groups[tensor.group].steps);
    if (table.ok()) {
      seconds += model.Seconds(MuonCost(rows, cols, *table, iterate, tensor.gradient_type, tensor.parameter_type),
                               std::min(rows, cols));
    }
  }
  return seconds;
}

}  // namespace

absl::StatusOr<Plan> PlanLocally(const Manifest& manifest, const std::string& daemon, const Backend& backend, uint64_t epoch) {
  auto items = ItemsOf(manifest);
  if (!items.ok()) return items.status();
  Plan plan;
  plan.epoch = epoch;
  plan.items = *std::move(items);
  for (const auto& device : backend.devices()) {
    const DeviceInfo& info = device->info();
    plan.devices.push_back({daemon, info.ordinal, info.uuid, info.name, info.architecture, info.memory_bytes, device->free_bytes()});
  }
  const DeviceKind kind = backend.devices().front()->info().kind;
  const CostModel model = CostModel::Nominal(kind);
  for (PlanItem& item : plan.items) {
    item.cost_seconds = CostOf(manifest, item, model, kind == DeviceKind::kCpu ? DType::kFloat32 : DType::kFloat16);
  }
  std::vector<size_t> order(plan.items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&plan](size_t x, size_t y) { return plan.items[x].cost_seconds > plan.items[y].cost_seconds; });
  std::vector<double>& load = plan.device_cost_seconds;
  load.assign(plan.devices.size(), 0);
  for (const size_t i : order) {
    const size_t device = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    plan.items[i].owner = static_cast<int32_t>(device);
    load[device] += plan.items[i].cost_seconds;
  }
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  const double heaviest = *std::max_element(load.begin(), load.end());
  plan.imbalance = total > 0 ? heaviest * static_cast<double>(load.size()) / total : 1;
  plan.reason = absl::StrFormat("%d items, longest first, on %d devices of one daemon", plan.items.size(), plan.devices.size());
  return plan;
}

void LocalPlans::CreateJob(std::shared_ptr<const Manifest> manifest, std::vector<std::shared_ptr<const RankManifest>>,
                           uint64_t adopt_job_id, absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) {
  auto plan = PlanLocally(*manifest, daemon_, backend_, ++epoch_);
  if (!plan.ok()) return done(plan.status());
  PlannedJob planned;
  planned.job_id = adopt_job_id != 0 ? adopt_job_id : MintId();
  planned.incarnation = adopt_job_id != 0 ? ++incarnation_ : 1;
  planned.plan = *std::move(plan);
  done(std::move(planned));
}

void LocalPlans::EndJob(uint64_t, const std::string&) {}

}  // namespace muond
