#include "server/daemon/job_layout.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/dtype.h"

namespace muond {
namespace {

// Fills in who owns the item, and on which of our devices; kElsewhere when it is not ours.
absl::Status SetOwner(const Plan& plan, size_t item, const std::string& daemon, int devices,
                      const JobMembers& members, MemberView* view, int* ordinal) {
  const int32_t owner = plan.items[item].owner;
  if (owner < 0 || static_cast<size_t>(owner) >= plan.devices.size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d has owner %d of %d devices", plan.epoch, item,
                        owner, plan.devices.size()));
  }
  const DeviceSpec& device = plan.devices[owner];
  const auto at = std::find_if(members.members.begin(), members.members.end(),
                               [&](const JobMember& m) { return m.daemon == device.daemon; });
  if (at != members.members.end()) {
    view->owner_of_item.push_back(static_cast<uint32_t>(at - members.members.begin()));
    *ordinal = kElsewhere;
    if (view->owner_of_item.back() != view->self) return absl::OkStatus();
  } else if (device.daemon != daemon || !members.members.empty()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d belongs to daemon '%s', this is '%s'",
                        plan.epoch, item, device.daemon, daemon));
  }
  if (device.ordinal < 0 || device.ordinal >= devices) {
    return absl::FailedPreconditionError(
        absl::StrFormat("plan of epoch %d: item %d belongs to device %d, there are %d", plan.epoch,
                        item, device.ordinal, devices));
  }
  *ordinal = device.ordinal;
  return absl::OkStatus();
}

// Of the tensors, what this daemon's ranks hold.
std::vector<GatheredTensor> LocalPart(const std::vector<GatheredTensor>& tensors,
                                      const MemberView& view) {
  std::vector<GatheredTensor> local = tensors;
  for (GatheredTensor& tensor : local) {
    for (ReplicaBlocks& replica : tensor.replicas) {
      std::erase_if(replica.blocks, [&](const HeldBlock& held) { return !view.local(held.rank); });
    }
    std::erase_if(tensor.replicas, [](const ReplicaBlocks& r) { return r.blocks.empty(); });
  }
  return local;
}

// For each tensor the replica that is read on this daemon; they take turns. All of it must lie with this daemon's ranks.
absl::StatusOr<std::vector<int32_t>> LocalReplicas(const Manifest& manifest,
                                                   const std::vector<GatheredTensor>& tensors,
                                                   const MemberView& view) {
  std::vector<int32_t> chosen;
  for (size_t t = 0; t < tensors.size(); ++t) {
    std::vector<int32_t> whole;
    bool empty = true;
    for (size_t r = 0; r < tensors[t].replicas.size(); ++r) {
      const std::vector<HeldBlock>& blocks = tensors[t].replicas[r].blocks;
      empty = empty && blocks.empty();
      const bool here = std::all_of(blocks.begin(), blocks.end(),
                                    [&](const HeldBlock& held) { return view.local(held.rank); });
      if (here && !blocks.empty()) whole.push_back(static_cast<int32_t>(r));
    }
    if (!tensors[t].same || (whole.empty() && !empty)) {
      return absl::UnimplementedError(absl::StrFormat(
          "tensor '%s' has %s, and the ranks of this job are at %d daemons: over several daemons "
          "each needs one whole, reduced replica (DDP); run one daemon for all ranks",
          manifest.tensors[t].name,
          tensors[t].same ? "no whole replica with this daemon's ranks" : "unreduced gradients",
          view.count));
    }
    chosen.push_back(empty ? 0 : whole[t % whole.size()]);
  }
  return chosen;
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
    const std::string& daemon, int devices, const JobMembers& members, uint32_t self) {
  auto layout = std::make_unique<JobLayout>();
  MemberView& view = layout->view;
  if (!members.members.empty()) {
    view.self = self;
    view.count = static_cast<uint32_t>(members.members.size());
    view.member_of_rank.assign(members.member_of_rank.begin(), members.member_of_rank.end());
  }
  const RankManifest nothing;
  std::vector<const RankManifest*> rank_views, local_views;
  for (uint32_t rank = 0; rank < ranks.size(); ++rank) {
    rank_views.push_back(ranks[rank].get());
    local_views.push_back(view.local(rank) ? ranks[rank].get() : &nothing);
  }
  while (layout->first_rank < ranks.size() && !view.local(layout->first_rank)) ++layout->first_rank;
  auto tensors = GatheredTensors(*manifest, rank_views);
  if (!tensors.ok()) return tensors.status();
  layout->tensors = *std::move(tensors);
  std::vector<int32_t> replicas;
  if (!view.alone()) {
    auto local = LocalReplicas(*manifest, layout->tensors, view);
    if (!local.ok()) return local.status();
    replicas = *std::move(local);
    layout->local_tensors = LocalPart(layout->tensors, view);
  }
  const auto provider = [&](int32_t tensor, int32_t count) {
    return view.alone() ? ProviderReplica(tensor, count) : replicas[tensor];
  };
  auto parts = PartsOf(*manifest, local_views, plan->items, provider);
  if (!parts.ok()) return parts.status();
  const std::vector<ItemSource> sources = SourcesOf(*manifest, *parts, local_views);

  layout->buckets.resize(manifest->buckets);
  layout->tensor_items.resize(manifest->tensors.size());
  layout->device_items.resize(devices);
  ShapeIds shapes;
  std::vector<ItemNeed> needs;
  for (size_t i = 0; i < plan->items.size(); ++i) {
    ItemLayout item;
    item.rule = plan->items[i].rule;
    if (absl::Status status = SetOwner(*plan, i, daemon, devices, members, &view, &item.device);
        !status.ok()) {
      return status;
    }
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
    if (item.device != kElsewhere) {
      layout->device_items[item.device].push_back(
          {static_cast<uint32_t>(i), item.shape, plan->items[i].cost_seconds});
    }
    layout->matrices += item.rule == Rule::kMuon;
    layout->parameters += item.elements;
    layout->items.push_back(std::move(item));
  }
  for (auto& items : layout->device_items) SortForStep(items);
  auto state = StateLayout::Lay(needs, devices);
  if (!state.ok()) return state.status();
  layout->state = *std::move(state);

  for (const ItemSource& source : sources) {
    if (view.owns(source.item)) layout->sources.push_back(source);
  }
  // Gradients of what others own stay where they are.
  std::vector<bool> read(manifest->tensors.size(), view.alone());
  for (size_t i = 0; i < layout->items.size(); ++i) {
    if (!view.owns(static_cast<uint32_t>(i))) continue;
    for (const RunParts& run : layout->items[i].parts.runs) read[run.tensor] = true;
  }
  const auto pushes = [&](int32_t tensor, int32_t count) {
    return read[tensor] ? provider(tensor, count) : -1;
  };
  size_t blocks_max = 0;
  for (uint32_t rank = 0; rank < ranks.size(); ++rank) {
    auto rank_layout = LayRank(*manifest, *local_views[rank], pushes);
    if (!rank_layout.ok()) return rank_layout.status();
    layout->rank_layouts.push_back(*std::move(rank_layout));
    blocks_max = std::max(blocks_max, ranks[rank]->shards.size());
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
  if (!view.alone()) {
    std::vector<ExchangeItem> exchanged;
    for (const ItemLayout& item : layout->items) {
      exchanged.push_back({static_cast<uint32_t>(item.parts.runs.size()), item.need.place_bytes});
    }
    layout->exchange = ExchangeLayout::Lay(view, JobPage(nullptr, layout->page).sheet_bytes(),
                                           sizeof(Measurement), exchanged);
  }
  layout->manifest = std::move(manifest);
  layout->ranks = std::move(ranks);
  layout->plan = std::move(plan);
  return layout;
}

}  // namespace muond
