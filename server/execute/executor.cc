#include "server/execute/executor.h"

#include <algorithm>
#include <utility>

namespace muond {

uint64_t WorkspaceBytes(const Ops& ops, absl::Span<ItemWork* const> works) {
  // The largest single matrix must fit; a round of what the device prefers is enough for any number of them.
  uint64_t bytes = 0;
  for (ItemWork* work : works) {
    if (!work->is_muon) continue;
    bytes =
        std::max(bytes, MuonWorkspaceBytes(ops, absl::MakeConstSpan(&work->muon, 1), UINT64_MAX));
  }
  return bytes;
}

uint64_t GroupWorkspaceBytes(const Ops& ops, absl::Span<ItemWork* const> works,
                             uint64_t most_bytes) {
  std::vector<MuonItem> items;
  for (ItemWork* work : works) {
    if (work->is_muon) items.push_back(work->muon);
  }
  return MuonWorkspaceBytes(ops, items, most_bytes);
}

absl::Status Executor::Run(absl::Span<ItemWork* const> group) {
  if (group.empty()) return absl::OkStatus();
  if (group.front()->is_muon) {
    muon_.resize(std::max(muon_.size(), group.size()));
    for (size_t i = 0; i < group.size(); ++i) std::swap(muon_[i], group[i]->muon);
    absl::Status status =
        MuonStep(lane_.ops(), lane_.stream(), absl::MakeConstSpan(muon_).first(group.size()),
                 lane_.workspace(), lane_.workspace_bytes());
    for (size_t i = 0; i < group.size(); ++i) std::swap(muon_[i], group[i]->muon);
    return status;
  }
  size_t tasks = 0;
  for (ItemWork* work : group) tasks += work->adamw.size();
  adamw_.resize(std::max(adamw_.size(), tasks));
  size_t at = 0;
  for (ItemWork* work : group) {
    for (AdamWTask& task : work->adamw) std::swap(adamw_[at++], task);
  }
  lane_.ops().AdamW(lane_.stream(), absl::MakeConstSpan(adamw_).first(tasks));
  at = 0;
  for (ItemWork* work : group) {
    for (AdamWTask& task : work->adamw) std::swap(adamw_[at++], task);
  }
  return absl::OkStatus();
}

}  // namespace muond
