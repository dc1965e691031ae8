#include "server/daemon/job_layout.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/runtime/dtype.h"

namespace muond {
namespace {

absl::StatusOr<int> OwnerOf(const Plan& plan, size_t item, const std::string& daemon, int devices) {
  const int32_t owner = plan.items[item].owner;
  if (owner < 0 || static_cast<size_t>(owner) >= plan.devices.size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d has owner %d of %d devices", plan.epoch, item,
                        owner, plan.devices.size()));
  }
  const DeviceSpec& device = plan.devices[owner];
  if (device.daemon != daemon) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d belongs to daemon '%s', this is '%s'",
                        plan.epoch, item, device.daemon, daemon));
  }
  if (device.ordinal < 0 || device.ordinal >= devices) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d belongs to device %d, there are %d", plan.epoch,
                        item, device.ordinal, devices));
  }
  return device.ordinal;
}

// Items that may run as one group: one rule, one rectangle, one coefficient table, one set of dtypes.
class ShapeIds {
 public:
  uint32_t Of(const Manifest& manifest, const ItemLayout& item) {
    const RunParts& run = item.parts.runs.front();
    const TensorSpec& tensor = manifest.tensors[run.tensor];
    const bool muon = item.rule == Rule::kMuon;
    const auto key =
        std::make_tuple(static_cast<int>(item.rule), muon ? run.rows : 0, muon ? run.cols : 0,
                        muon ? item.group : 0, static_cast<int>(tensor.parameter_type),
                        static_cast<int>(tensor.gradient_type));
    return ids_.emplace(key, static_cast<uint32_t>(ids_.size())).first->second;
  }

 private:
  std::map<std::tuple<int, int64_t, int64_t, int, int, int>, uint32_t> ids_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobLayout>> JobLayout::Build(
    std::shared_ptr<const Manifest> manifest,
    std::vector<std::shared_ptr<const RankManifest>> ranks, std::shared_ptr<const Plan> plan,
    const std::string& daemon, int devices) {
  auto layout = std::make_unique<JobLayout>();
  std::vector<const RankManifest*> rank_views;
  for (const auto& rank : ranks) rank_views.push_back(rank.get());
  auto parts = PartsOf(*manifest, rank_views, plan->items, ProviderReplica);
  if (!parts.ok()) return parts.status();
  layout->sources = SourcesOf(*manifest, *parts, rank_views);
  auto tensors = GatheredTensors(*manifest, rank_views);
  if (!tensors.ok()) return tensors.status();
  layout->tensors = *std::move(tensors);

  layout->buckets.resize(manifest->buckets);
  layout->tensor_items.resize(manifest->tensors.size());
  layout->device_items.resize(devices);
  ShapeIds shapes;
  std::vector<ItemNeed> needs;
  for (size_t i = 0; i < plan->items.size(); ++i) {
    auto device = OwnerOf(*plan, i, daemon, devices);
    if (!device.ok()) return device.status();
    ItemLayout item;
    item.rule = plan->items[i].rule;
    item.device = *device;
    item.parts = std::move((*parts)[i]);
    item.group = manifest->tensors[item.parts.runs.front().tensor].group;
    item.shape = shapes.Of(*manifest, item);
    std::vector<RowRun> runs;
    for (const RunParts& run : item.parts.runs) {
      std::vector<int32_t>& of_tensor = layout->tensor_items[run.tensor];
      if (of_tensor.empty() || of_tensor.back() != static_cast<int32_t>(i))
        of_tensor.push_back(static_cast<int32_t>(i));
      const TensorSpec& tensor = manifest->tensors[run.tensor];
      runs.push_back({run.rows, run.cols, static_cast<uint32_t>(SizeOf(tensor.parameter_type))});
      item.elements += static_cast<uint64_t>(run.rows) * static_cast<uint64_t>(run.cols);
    }
    item.need =
        NeedOf(item.rule == Rule::kMuon ? StateRule::kMuon : StateRule::kAdamW, item.device, runs);
    needs.push_back(item.need);
    for (uint32_t bucket : item.parts.buckets)
      layout->buckets[bucket].items.push_back(static_cast<int32_t>(i));
    layout->device_items[item.device].push_back(
        {static_cast<uint32_t>(i), item.shape, plan->items[i].cost_seconds});
    layout->matrices += item.rule == Rule::kMuon;
    layout->parameters += item.elements;
    layout->items.push_back(std::move(item));
  }
  for (auto& items : layout->device_items) SortForStep(items);
  auto state = StateLayout::Lay(needs, devices);
  if (!state.ok()) return state.status();
  layout->state = *std::move(state);

  size_t blocks_max = 0;
  for (const auto& rank : ranks) {
    auto rank_layout = LayRank(*manifest, *rank);
    if (!rank_layout.ok()) return rank_layout.status();
    layout->rank_layouts.push_back(*std::move(rank_layout));
    blocks_max = std::max(blocks_max, rank->shards.size());
  }
  for (size_t t = 0; t < manifest->tensors.size(); ++t) {
    layout->buckets[manifest->tensors[t].bucket].tensors.push_back(static_cast<int32_t>(t));
    layout->tensor_names.push_back(manifest->tensors[t].name);
  }
  layout->page = {static_cast<uint32_t>(ranks.size()),
                  static_cast<uint32_t>(manifest->buckets),
                  static_cast<uint32_t>(plan->items.size()),
                  static_cast<uint32_t>(manifest->groups.size()),
                  static_cast<uint32_t>(manifest->tensors.size()),
                  static_cast<uint32_t>(blocks_max)};
  auto page_bytes = JobPage::SizeBytes(layout->page);
  if (!page_bytes.ok()) return page_bytes.status();
  layout->page_bytes = *page_bytes;
  layout->manifest = std::move(manifest);
  layout->ranks = std::move(ranks);
  layout->plan = std::move(plan);
  return layout;
}

}  // namespace muond
