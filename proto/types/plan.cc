#include "proto/types/plan.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;

struct Owned {
  int32_t tensor;
  int64_t begin, end;
  size_t item;
};

absl::Status CheckSegments(const Manifest& manifest, const Plan& plan, std::vector<Owned>* owned) {
  for (size_t i = 0; i < plan.items.size(); ++i) {
    const PlanItem& item = plan.items[i];
    if (item.owner < 0 || static_cast<size_t>(item.owner) >= plan.devices.size()) {
      return InvalidArgumentError(StrFormat("plan: item %d has owner %d, there are %d devices", i,
                                            item.owner, plan.devices.size()));
    }
    if (item.segments.empty())
      return InvalidArgumentError(StrFormat("plan: item %d has no segments", i));
    if (item.rule == Rule::kMuon && item.segments.size() != 1) {
      return InvalidArgumentError(
          StrFormat("plan: item %d is a muon matrix of %d segments, one is allowed", i,
                    item.segments.size()));
    }
    if (owned->size() + item.segments.size() > static_cast<size_t>(kSegmentsMax)) {
      return InvalidArgumentError(StrFormat("plan: more than %d segments", kSegmentsMax));
    }
    for (const Segment& segment : item.segments) {
      if (segment.tensor < 0 || static_cast<size_t>(segment.tensor) >= manifest.tensors.size()) {
        return InvalidArgumentError(StrFormat("plan: item %d names tensor %d, the manifest has %d",
                                              i, segment.tensor, manifest.tensors.size()));
      }
      const TensorSpec& tensor = manifest.tensors[static_cast<size_t>(segment.tensor)];
      const int64_t rows = ViewOf(tensor).rows;
      if (segment.row_begin < 0 || segment.row_begin >= segment.row_end || segment.row_end > rows) {
        return InvalidArgumentError(
            StrFormat("plan: item %d names rows %d to %d of tensor '%s', which has %d", i,
                      segment.row_begin, segment.row_end, tensor.name, rows));
      }
      if (manifest.groups[static_cast<size_t>(tensor.group)].rule != item.rule) {
        return InvalidArgumentError(
            StrFormat("plan: item %d has another rule than tensor '%s'", i, tensor.name));
      }
      owned->push_back({segment.tensor, segment.row_begin, segment.row_end, i});
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const DeviceSpec& device) {
  for (const std::string* text :
       {&device.daemon, &device.uuid, &device.name, &device.architecture}) {
    if (text->size() > static_cast<size_t>(kTextBytesMax)) {
      return InvalidArgumentError(StrFormat("device %d: a text of %d bytes, the limit is %d",
                                            device.ordinal, text->size(), kTextBytesMax));
    }
  }
  if (device.ordinal < 0 || device.ordinal >= kDevicesPerDaemonMax) {
    return InvalidArgumentError(StrFormat("device ordinal %d, allowed are 0 to %d", device.ordinal,
                                          kDevicesPerDaemonMax - 1));
  }
  if (device.memory_free_bytes > device.memory_bytes) {
    return InvalidArgumentError(StrFormat("device %d: %d bytes free of %d", device.ordinal,
                                          device.memory_free_bytes, device.memory_bytes));
  }
  return absl::OkStatus();
}

absl::Status Validate(const Manifest& manifest, const Plan& plan) {
  if (plan.epoch < 1 || plan.epoch > kEpochMax) {
    return InvalidArgumentError(
        StrFormat("plan: epoch %d, allowed are 1 to %d", plan.epoch, kEpochMax));
  }
  if (plan.devices.empty() || plan.devices.size() > static_cast<size_t>(kDevicesMax)) {
    return InvalidArgumentError(
        StrFormat("plan: %d devices, allowed are 1 to %d", plan.devices.size(), kDevicesMax));
  }
  for (const DeviceSpec& device : plan.devices) {
    if (absl::Status status = Validate(device); !status.ok()) return status;
  }
  if (plan.items.empty() || plan.items.size() > static_cast<size_t>(kItemsMax)) {
    return InvalidArgumentError(
        StrFormat("plan: %d items, allowed are 1 to %d", plan.items.size(), kItemsMax));
  }
  if (plan.device_cost_seconds.size() != plan.devices.size()) {
    return InvalidArgumentError(StrFormat("plan: %d device costs for %d devices",
                                          plan.device_cost_seconds.size(), plan.devices.size()));
  }
  std::vector<Owned> owned;
  if (absl::Status status = CheckSegments(manifest, plan, &owned); !status.ok()) return status;
  std::sort(owned.begin(), owned.end(), [](const Owned& a, const Owned& b) {
    return a.tensor != b.tensor ? a.tensor < b.tensor : a.begin < b.begin;
  });
  size_t at = 0;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    const int64_t rows = ViewOf(manifest.tensors[t]).rows;
    int64_t next = 0;
    for (; at < owned.size() && static_cast<size_t>(owned[at].tensor) == t; ++at) {
      if (owned[at].begin != next) {
        return InvalidArgumentError(
            StrFormat("plan: tensor '%s': item %d starts at row %d, expected was row %d",
                      manifest.tensors[t].name, owned[at].item, owned[at].begin, next));
      }
      next = owned[at].end;
    }
    if (next != rows) {
      return InvalidArgumentError(StrFormat("plan: tensor '%s': items hold %d of %d rows",
                                            manifest.tensors[t].name, next, rows));
    }
  }
  return absl::OkStatus();
}

int64_t ElementsOf(const Manifest& manifest, const PlanItem& item) {
  int64_t elements = 0;
  for (const Segment& segment : item.segments) {
    elements += (segment.row_end - segment.row_begin) *
                ViewOf(manifest.tensors[static_cast<size_t>(segment.tensor)]).cols;
  }
  return elements;
}

}  // namespace muond
