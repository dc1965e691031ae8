// UcxRegions: the memory that this carrier registered, and the regions of peers that it imported.
// Threads: those of the carrier.   Errors: as ShardCarrier says.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/carrier/shard_carrier.h"
#include "proto/carrier/ucx/messages.h"
#include "proto/carrier/ucx/ucx_worker.h"

namespace muond {

// Memory of ours that peers may write into.
struct UcxLocalRegion {
  std::byte* base = nullptr;
  uint64_t size_bytes = 0;
  bool device = false;
  ucp_mem_h memory = nullptr;
  size_t landing = 0;  // pieces that are being written into it
};
struct UcxRemoteRegion {
  PeerId peer = kNoPeer;
  RegionKey key;
};

class UcxRegions {
 public:
  // `ucx` outlives this; `self` is the carrier's own id, which its keys carry.
  UcxRegions(const UcxWorker& ucx, uint64_t self) : ucx_(ucx), self_(self) {}
  ~UcxRegions();
  UcxRegions(const UcxRegions&) = delete;
  UcxRegions& operator=(const UcxRegions&) = delete;

  absl::StatusOr<Region> Register(void* base, uint64_t size_bytes);
  absl::Status Unregister(RegionId region);
  // `remote_carrier` 0: the peer has not said yet who it is; its puts are then checked when they fly.
  absl::StatusOr<RemoteRegionId> Import(PeerId peer, uint64_t remote_carrier, std::string_view key);
  void Release(RemoteRegionId region) { remote_.erase(region); }
  void Forget(PeerId peer);  // all of its regions
  // Null when it is not registered. Stays where it is while it is.
  UcxLocalRegion* Local(RegionId region);
  // The region of a put that fits into it.
  absl::StatusOr<RegionKey> Find(const PutRequest& put) const;

 private:
  const UcxWorker& ucx_;
  const uint64_t self_;
  uint64_t next_ = 1;
  std::unordered_map<RegionId, UcxLocalRegion> local_;
  std::unordered_map<RemoteRegionId, UcxRemoteRegion> remote_;
};

}  // namespace muond
