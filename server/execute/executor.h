// Executor: the step of a group of items as calls into kernels/optim.
//
// The work of an item is built once, at attach: its blocks, scalars and shapes stay; per step only the slot and place pointers
// and the scalars' values change. Nothing is updated in place: old state, old parameter and gradient stay as they are.
// Threads: the StepLoop enqueues; scalars are read when the stream gets there and must not change before it has passed.
// Memory: nothing is allocated here after the first group of a size.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/optim/muon.h"
#include "server/execute/lane.h"

namespace muond {

// Muon: `muon` and the scalars that it points to. AdamW: one task and one set of scalars for each run of rows. Scalars are
// borrowed: they lie in host pages that a device can reach.
// The address of an ItemWork is part of it: it is never moved.
struct ItemWork {
  bool is_muon = true;
  MuonItem muon;
  MuonScalars* muon_scalars = nullptr;
  std::vector<AdamWTask> adamw;
  absl::Span<AdamWScalars> adamw_scalars;

  ItemWork() = default;
  ItemWork(const ItemWork&) = delete;
  ItemWork& operator=(const ItemWork&) = delete;
};

// The workspace that a lane needs for these items, in groups of any size: the largest alone.
uint64_t WorkspaceBytes(const Ops& ops, absl::Span<ItemWork* const> works);
// What serves groups better: as many of the largest items side by side as `most_bytes` hold. A GPU whose round is one matrix
// stands idle for most of it.
uint64_t GroupWorkspaceBytes(const Ops& ops, absl::Span<ItemWork* const> works,
                             uint64_t most_bytes);

class Executor {
 public:
  explicit Executor(Lane& lane) : lane_(lane) {}
  // Enqueues the group: all of one rule.
  absl::Status Run(absl::Span<ItemWork* const> group);

 private:
  Lane& lane_;
  std::vector<MuonItem>
      muon_;  // scratch: the items travel through it, because a call takes them side by side
  std::vector<AdamWTask> adamw_;
};

}  // namespace muond
