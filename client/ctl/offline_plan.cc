#include "client/ctl/offline_plan.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/ctl/text_table.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

constexpr size_t kDevicesDrawn = 64;
constexpr size_t kBarColumns = 40;

absl::StatusOr<CostModels> ModelsOf(const OfflineOptions& options) {
  CostModels models;
  if (options.calibration.empty()) return models;
  std::ifstream file(options.calibration, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrFormat("%s: cannot be read", options.calibration));
  absl::StatusOr<CostModel> model =
      CostModel::Parse(std::string(std::istreambuf_iterator<char>(file), {}));
  if (!model.ok()) {
    return absl::Status(model.status().code(),
                        absl::StrFormat("%s: %s", options.calibration, model.status().message()));
  }
  (options.cpu ? models.cpu : models.gpu) = *std::move(model);
  return models;
}

std::string OwnedText(const OfflinePlan& plan, size_t device) {
  std::string text;
  for (size_t r = 0; r < plan.list.size(); ++r) {
    if (plan.owned[r][device] == 0) continue;
    text += absl::StrFormat("%s%d %s", text.empty() ? "" : ", ", plan.owned[r][device],
                            plan.list[r].name);
  }
  return text.empty() ? "nothing" : text;
}

}  // namespace

absl::StatusOr<OfflinePlan> PlanOffline(std::vector<ModelRow> list, const OfflineOptions& options) {
  if (options.devices < 1 || options.devices > kDevicesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d devices, allowed are 1 to %d", options.devices, kDevicesMax));
  }
  absl::StatusOr<CostModels> models = ModelsOf(options);
  if (!models.ok()) return models.status();
  const Manifest manifest = ManifestOf(list);
  if (absl::Status status = Validate(manifest); !status.ok()) return status;
  std::vector<DeviceSpec> devices(static_cast<size_t>(options.devices));
  for (size_t d = 0; d < devices.size(); ++d) {
    devices[d].daemon = absl::StrFormat("offline-%d", d / kDevicesPerDaemonMax);
    devices[d].ordinal = static_cast<int32_t>(d % kDevicesPerDaemonMax);
    devices[d].architecture = options.cpu ? "cpu" : "gpu";
    devices[d].memory_bytes = devices[d].memory_free_bytes = options.device_memory_bytes;
  }
  absl::StatusOr<Planned> planned = MakePlan({&manifest, {}, devices, nullptr, 1}, *models);
  if (!planned.ok()) return planned.status();

  OfflinePlan plan;
  plan.list = std::move(list);
  plan.planned = *std::move(planned);
  plan.row_seconds.assign(plan.list.size(), 0);
  plan.owned.assign(plan.list.size(), std::vector<int64_t>(devices.size(), 0));
  size_t item = 0;
  double sum = 0;
  for (size_t r = 0; r < plan.list.size(); ++r) {
    for (int64_t i = 0; i < plan.list[r].count; ++i, ++item) {
      const PlanItem& owned = plan.planned.plan.items[item];
      ++plan.owned[r][static_cast<size_t>(owned.owner)];
      plan.row_seconds[r] = owned.cost_seconds;
      sum += owned.cost_seconds;
    }
  }
  plan.mean_seconds = sum / static_cast<double>(devices.size());
  plan.largest_seconds = *std::max_element(plan.row_seconds.begin(), plan.row_seconds.end());
  return plan;
}

std::string ToText(const OfflinePlan& plan) {
  const std::vector<double>& load = plan.planned.plan.device_cost_seconds;
  int64_t matrices = 0;
  TextTable rows({"matrix", "rows", "cols", "count", "ms each", "share"});
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  for (size_t r = 0; r < plan.list.size(); ++r) {
    const ModelRow& row = plan.list[r];
    matrices += row.count;
    rows.Add({row.name, absl::StrFormat("%d", row.rows), absl::StrFormat("%d", row.cols),
              absl::StrFormat("%d", row.count), absl::StrFormat("%.4f", plan.row_seconds[r] * 1e3),
              absl::StrFormat("%.1f%%",
                              100 * plan.row_seconds[r] * static_cast<double>(row.count) / total)});
  }
  std::string text = rows.ToText() + "\n";

  std::vector<size_t> order(load.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (order.size() > kDevicesDrawn) {
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return load[a] > load[b]; });
  }
  TextTable devices({"device", "ms", "", "owns"});
  for (size_t i = 0; i < order.size(); ++i) {
    const size_t device = order[i];
    if (order.size() > kDevicesDrawn && i >= kDevicesDrawn / 2 &&
        i < order.size() - kDevicesDrawn / 2) {
      if (i == kDevicesDrawn / 2) {
        devices.Add(
            {"...", "", "", absl::StrFormat("%d devices between", order.size() - kDevicesDrawn)});
      }
      continue;
    }
    devices.Add({absl::StrFormat("%d", device), absl::StrFormat("%.4f", load[device] * 1e3),
                 Bar(load[device] / plan.planned.makespan_seconds, kBarColumns),
                 OwnedText(plan, device)});
  }
  text += devices.ToText();
  text +=
      absl::StrFormat("\n%d matrices, %d devices, imbalance %.4f (heaviest over mean)\n%s\n",
                      matrices, load.size(), plan.planned.plan.imbalance, plan.planned.plan.reason);
  return text;
}

}  // namespace muond
