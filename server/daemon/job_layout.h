// JobLayout: everything about a job that follows from its manifest, its ranks' manifests and its plan, and from nothing else.
// Built once when the job starts, and again, equal, by every successor.
// Threads: immutable after Build.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/types/members.h"
#include "proto/types/plan.h"
#include "proto/wire/job_page.h"
#include "server/gather/item_blocks.h"
#include "server/peer/exchange_layout.h"
#include "server/schedule/scheduler.h"
#include "server/session/attach_layout.h"
#include "server/state/layout.h"

namespace muond {

struct ItemLayout {
  Rule rule = Rule::kMuon;
  int device = 0;      // kElsewhere: of another member
  uint32_t shape = 0;  // items of one shape may run as one group
  uint64_t elements = 0;
  ItemNeed need;
  ItemParts parts;
  int32_t group = 0;  // Muon: of its tensor
};

struct BucketLayout {
  std::vector<int32_t> tensors, items;
};

struct JobLayout {
  std::shared_ptr<const Manifest> manifest;
  std::vector<std::shared_ptr<const RankManifest>> ranks;
  std::shared_ptr<const Plan> plan;

  std::vector<ItemLayout> items;
  StateLayout state;
  std::vector<RankLayout> rank_layouts;
  std::vector<BucketLayout> buckets;
  std::vector<std::vector<int32_t>> tensor_items;  // rising
  PageShape page;
  uint64_t page_bytes = 0;
  MemberView view;
  ExchangeLayout exchange;  // of several members
  uint32_t first_rank = 0;  // of this daemon
  std::vector<GatheredTensor> tensors;
  std::vector<GatheredTensor> local_tensors;  // of several members: of this daemon's ranks
  std::vector<ItemSource> sources;
  std::vector<std::string> tensor_names;
  // Of each device, in the order of a step.
  std::vector<std::vector<ScheduledItem>> device_items;
  uint64_t parameters = 0, matrices = 0;

  // FAILED_PRECONDITION when the plan gives an item to a daemon that is no member, or to a device that is not here;
  // UNIMPLEMENTED, naming the tensor, when several members would need gradients of each other.
  static absl::StatusOr<std::unique_ptr<JobLayout>> Build(
      std::shared_ptr<const Manifest> manifest,
      std::vector<std::shared_ptr<const RankManifest>> ranks, std::shared_ptr<const Plan> plan,
      const std::string& daemon, int devices, const JobMembers& members = {}, uint32_t self = 0);
};

}  // namespace muond
