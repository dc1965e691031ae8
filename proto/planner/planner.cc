#include "proto/planner/planner.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "proto/planner/balance.h"
#include "proto/types/items.h"
#include "proto/types/limits.h"
#include "proto/types/shards.h"

namespace muond {
namespace {

using absl::StrFormat;

enum Kind : int32_t { kCpuKind = 0, kGpuKind = 1 };

Kind KindOf(const DeviceSpec& device) {
  return std::string_view(device.architecture).starts_with("cpu") ? kCpuKind : kGpuKind;
}

// How the ranks hold a tensor, as far as costs care.
struct Holders {
  int32_t replicas = 1;
  bool summed = false;  // every replica's gradient is read
};

std::vector<Holders> HoldersOf(const Manifest& manifest, absl::Span<const RankManifest> ranks) {
  std::vector<Holders> holders(manifest.tensors.size());
  for (const RankManifest& rank : ranks) {
    for (const ShardSpec& shard : rank.shards) {
      holders[static_cast<size_t>(shard.tensor)] = {shard.replicas,
                                                    shard.replica_kind == ReplicaKind::kSum};
    }
  }
  return holders;
}

absl::StatusOr<std::vector<CoefficientTable>> TablesOf(const Manifest& manifest) {
  std::vector<CoefficientTable> tables(manifest.groups.size());
  for (size_t g = 0; g < manifest.groups.size(); ++g) {
    const GroupSpec& group = manifest.groups[g];
    if (group.rule != Rule::kMuon) continue;
    if (group.table == "custom") {
      tables[g] = {"custom", group.custom_steps};
      continue;
    }
    absl::StatusOr<CoefficientTable> table = FindCoefficientTable(group.table, group.steps);
    if (!table.ok()) {
      return absl::InvalidArgumentError(
          StrFormat("group %d '%s': %s", g, group.name, table.status().message()));
    }
    tables[g] = *std::move(table);
  }
  return tables;
}

class Costs {
 public:
  Costs(const Manifest& manifest, std::vector<CoefficientTable> tables,
        std::vector<Holders> holders, const CostModels& models)
      : manifest_(manifest),
        tables_(std::move(tables)),
        holders_(std::move(holders)),
        models_(models) {}

  double Seconds(const PlanItem& item, Kind kind) const {
    const CostModel& model = kind == kCpuKind ? models_.cpu : models_.gpu;
    const DType iterate = kind == kCpuKind ? DType::kFloat32 : DType::kFloat16;
    const double link =
        kind == kCpuKind ? models_.cpu_link_bytes_per_second : models_.gpu_link_bytes_per_second;
    double seconds = 0;
    for (const Segment& segment : item.segments) {
      const TensorSpec& tensor = manifest_.tensors[static_cast<size_t>(segment.tensor)];
      const int64_t rows = segment.row_end - segment.row_begin, cols = ViewOf(tensor).cols;
      if (item.rule == Rule::kMuon) {
        const CoefficientTable& table = tables_[static_cast<size_t>(tensor.group)];
        seconds += model.Seconds(
            MuonCost(rows, cols, table, iterate, tensor.gradient_type, tensor.parameter_type),
            std::min(rows, cols));
      } else {
        // No products: the side only picks a rate for the few FLOP that AdamW has.
        seconds += model.Seconds(
            AdamWCost(rows * cols, tensor.gradient_type, tensor.parameter_type), 1 << 20);
      }
      const Holders& holders = holders_[static_cast<size_t>(segment.tensor)];
      const double pulled = static_cast<double>(SizeOf(tensor.gradient_type)) *
                            (holders.summed ? holders.replicas : 1);
      const double pushed = static_cast<double>(SizeOf(tensor.parameter_type)) * holders.replicas;
      seconds += static_cast<double>(rows) * static_cast<double>(cols) * (pulled + pushed) / link;
    }
    return seconds;
  }

 private:
  const Manifest& manifest_;
  const std::vector<CoefficientTable> tables_;
  const std::vector<Holders> holders_;
  const CostModels& models_;
};

// The device, in `devices`, that is the same as one of another list.
class DeviceIndex {
 public:
  explicit DeviceIndex(absl::Span<const DeviceSpec> devices) {
    for (size_t d = 0; d < devices.size(); ++d) {
      by_place_.try_emplace({devices[d].daemon, devices[d].ordinal}, static_cast<int32_t>(d));
      if (!devices[d].uuid.empty()) by_uuid_.try_emplace(devices[d].uuid, static_cast<int32_t>(d));
    }
  }
  int32_t OfPlace(const DeviceSpec& device) const {
    const auto at = by_place_.find({device.daemon, device.ordinal});
    return at == by_place_.end() ? -1 : at->second;
  }
  int32_t OfUuid(const std::string& uuid) const {
    const auto at = by_uuid_.find(uuid);
    return at == by_uuid_.end() ? -1 : at->second;
  }

 private:
  std::map<std::pair<std::string, int32_t>, int32_t> by_place_;
  std::map<std::string, int32_t> by_uuid_;
};

// Where most of each item's elements lie already, by the ranks' devices.
absl::Status PreferShards(const Manifest& manifest, absl::Span<const RankManifest> ranks,
                          const DeviceIndex& index, const std::vector<PlanItem>& items,
                          std::vector<int32_t>* preferred) {
  if (std::all_of(ranks.begin(), ranks.end(),
                  [](const RankManifest& rank) { return rank.device_uuid.empty(); })) {
    return absl::OkStatus();
  }
  std::vector<std::vector<std::pair<size_t, Segment>>> of_tensor(manifest.tensors.size());
  for (size_t i = 0; i < items.size(); ++i) {
    for (const Segment& segment : items[i].segments)
      of_tensor[static_cast<size_t>(segment.tensor)].push_back({i, segment});
  }
  std::vector<std::map<int32_t, int64_t>> held(items.size());
  for (const RankManifest& rank : ranks) {
    const int32_t device = rank.device_uuid.empty() ? -1 : index.OfUuid(rank.device_uuid);
    if (device < 0) continue;
    for (const ShardSpec& shard : rank.shards) {
      const TensorSpec& tensor = manifest.tensors[static_cast<size_t>(shard.tensor)];
      absl::StatusOr<std::vector<Rectangle>> rectangles = RectanglesOf(tensor, shard);
      if (!rectangles.ok()) return rectangles.status();
      for (const auto& [item, segment] : of_tensor[static_cast<size_t>(shard.tensor)]) {
        for (const Rectangle& part : Clip(*rectangles, segment.row_begin, segment.row_end)) {
          held[item][device] += part.rows * part.cols;
        }
      }
    }
  }
  for (size_t i = 0; i < items.size(); ++i) {
    if ((*preferred)[i] >= 0) continue;
    int64_t most = 0;
    for (const auto& [device, elements] : held[i]) most = std::max(most, elements);
    // Replicas hold equal shares: spread them, or the first device would be everybody's choice.
    std::vector<int32_t> equal;
    for (const auto& [device, elements] : held[i]) {
      if (elements == most) equal.push_back(device);
    }
    if (!equal.empty()) (*preferred)[i] = equal[i % equal.size()];
  }
  return absl::OkStatus();
}

std::string Milliseconds(double seconds) { return StrFormat("%.4g ms", seconds * 1e3); }

std::string ReasonOf(const Planned& planned, const PlannerInput& input, double mean,
                     double largest) {
  std::string reason = StrFormat(
      "%d items on %d devices: the last finishes after %s, %.2f%% over max(mean %s, largest item "
      "%s)",
      planned.plan.items.size(), input.devices.size(), Milliseconds(planned.makespan_seconds),
      100 * (planned.makespan_seconds / planned.lower_bound_seconds - 1), Milliseconds(mean),
      Milliseconds(largest));
  if (planned.proven_seconds > planned.lower_bound_seconds * 1.0001) {
    reason += StrFormat(
        "; no plan that keeps matrices whole finishes before %s (the sets of them that one device "
        "finishes by then, "
        "even mixed in fractions, cover the list on more than %d devices only), so splitting one "
        "is needed for less",
        Milliseconds(planned.proven_seconds), input.devices.size());
  } else if (largest >= mean) {
    reason += "; the largest item decides: splitting it is needed for less";
  }
  if (planned.preferring > 0) {
    reason += StrFormat("; %d of %d items stay where their %s", planned.kept, planned.preferring,
                        input.previous != nullptr ? "state lies" : "shards lie");
  }
  return reason;
}

}  // namespace

uint64_t ItemBytes(Rule rule, int64_t elements) {
  return static_cast<uint64_t>(elements) * (rule == Rule::kMuon ? 4 + 1 : 8 + 1);
}

absl::StatusOr<Planned> MakePlan(const PlannerInput& input, const CostModels& models) {
  const Manifest& manifest = *input.manifest;
  if (input.devices.empty())
    return absl::InvalidArgumentError(StrFormat("job '%s': no devices to plan on", manifest.job));
  if (input.epoch < 1 || input.epoch > kEpochMax) {
    return absl::InvalidArgumentError(
        StrFormat("epoch %d, allowed are 1 to %d", input.epoch, kEpochMax));
  }
  absl::StatusOr<std::vector<PlanItem>> items = ItemsOf(manifest);
  if (!items.ok()) return items.status();
  if (items->empty())
    return absl::InvalidArgumentError(StrFormat("job '%s': nothing to own", manifest.job));
  absl::StatusOr<std::vector<CoefficientTable>> tables = TablesOf(manifest);
  if (!tables.ok()) return tables.status();
  const DeviceIndex index(input.devices);

  std::vector<int32_t> preferred(items->size(), -1);
  std::vector<uint64_t> held_bytes(input.devices.size(), 0);
  if (input.previous != nullptr && input.previous->items.size() == items->size()) {
    std::vector<int32_t> now;
    for (const DeviceSpec& device : input.previous->devices) now.push_back(index.OfPlace(device));
    for (size_t i = 0; i < items->size(); ++i) {
      preferred[i] = now[static_cast<size_t>(input.previous->items[i].owner)];
      if (preferred[i] < 0) continue;
      held_bytes[static_cast<size_t>(preferred[i])] +=
          ItemBytes((*items)[i].rule, ElementsOf(manifest, (*items)[i]));
    }
  }
  if (absl::Status status = PreferShards(manifest, input.ranks, index, *items, &preferred);
      !status.ok())
    return status;

  std::vector<BalanceDevice> devices;
  for (size_t d = 0; d < input.devices.size(); ++d) {
    const DeviceSpec& device = input.devices[d];
    // What the job holds there already is room for it, too.
    const uint64_t room =
        device.memory_bytes == 0
            ? uint64_t{1} << 62
            : std::min(device.memory_bytes, device.memory_free_bytes + held_bytes[d]);
    devices.push_back({KindOf(device), room});
  }
  const Costs costs(manifest, *std::move(tables), HoldersOf(manifest, input.ranks), models);
  std::vector<BalanceItem> balanced(items->size());
  for (size_t i = 0; i < items->size(); ++i) {
    const PlanItem& item = (*items)[i];
    balanced[i] = {{costs.Seconds(item, kCpuKind), costs.Seconds(item, kGpuKind)},
                   ItemBytes(item.rule, ElementsOf(manifest, item)),
                   preferred[i]};
  }
  absl::StatusOr<Balance> balance = BalanceItems(balanced, devices);
  if (!balance.ok()) {
    return absl::Status(balance.status().code(),
                        StrFormat("job '%s': %s", manifest.job, balance.status().message()));
  }

  Planned planned;
  Plan& plan = planned.plan;
  plan.epoch = input.epoch;
  plan.devices.assign(input.devices.begin(), input.devices.end());
  plan.items = *std::move(items);
  plan.device_cost_seconds = balance->load;
  double sum = 0, largest = 0;
  for (size_t i = 0; i < plan.items.size(); ++i) {
    plan.items[i].owner = balance->owner[i];
    const Kind kind = KindOf(input.devices[static_cast<size_t>(balance->owner[i])]);
    plan.items[i].cost_seconds = balanced[i].seconds[kind];
    sum += plan.items[i].cost_seconds;
    largest = std::max(largest, plan.items[i].cost_seconds);
  }
  const double mean = sum / static_cast<double>(input.devices.size());
  planned.makespan_seconds = balance->makespan;
  planned.lower_bound_seconds = balance->lower_bound;
  planned.proven_seconds = balance->proven;
  planned.kept = balance->kept;
  planned.preferring =
      std::count_if(preferred.begin(), preferred.end(), [](int32_t device) { return device >= 0; });
  plan.imbalance = balance->makespan / mean;
  plan.reason = ReasonOf(planned, input, mean, largest);
  return planned;
}

}  // namespace muond
