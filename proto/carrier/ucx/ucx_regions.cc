#include "proto/carrier/ucx/ucx_regions.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/put_window.h"

namespace muond {

UcxRegions::~UcxRegions() {
  for (const auto& [id, region] : local_) ucp_mem_unmap(ucx_.context(), region.memory);
}

absl::StatusOr<Region> UcxRegions::Register(void* base, uint64_t size_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(base);
  if (base == nullptr || size_bytes == 0 || address > UINTPTR_MAX - size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("no memory: ", size_bytes, " bytes at ", address));
  }
  if (local_.size() >= kRegionsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(local_.size(), " regions are registered, the most is ", kRegionsMax));
  }
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
  params.address = base;
  params.length = size_bytes;
  ucp_mem_h memory = nullptr;
  if (auto status = ucp_mem_map(ucx_.context(), &params, &memory); status != UCS_OK)
    return FromUcs(status, absl::StrCat("register ", size_bytes, " bytes"));
  ucp_mem_attr_t attr{};
  attr.field_mask = UCP_MEM_ATTR_FIELD_MEM_TYPE;
  absl::Status status = FromUcs(ucp_mem_query(memory, &attr), "ask for the type of memory");
  const bool device = status.ok() && attr.mem_type != UCS_MEMORY_TYPE_HOST;
  if (device && !ucx_.device_memory()) {
    status = absl::UnimplementedError(absl::StrCat("memory of a device (type ", attr.mem_type,
                                                   "), but this is ", ucx_.description()));
  }
  if (!status.ok()) {
    ucp_mem_unmap(ucx_.context(), memory);
    return status;
  }
  const RegionId region = next_++;
  local_[region] = {static_cast<std::byte*>(base), size_bytes, device, memory, 0};
  return Region{region, Encode(RegionKey{self_, region, size_bytes, device})};
}

absl::Status UcxRegions::Unregister(RegionId region) {
  const auto found = local_.find(region);
  if (found == local_.end())
    return absl::NotFoundError(absl::StrCat("region ", region, " is not registered"));
  if (found->second.landing > 0) {
    return absl::FailedPreconditionError(absl::StrCat(found->second.landing,
                                                      " pieces of puts land in region ", region,
                                                      ": sever their peers first"));
  }
  const ucp_mem_h memory = found->second.memory;
  local_.erase(found);
  return FromUcs(ucp_mem_unmap(ucx_.context(), memory), "unregister memory");
}

absl::StatusOr<RemoteRegionId> UcxRegions::Import(PeerId peer, uint64_t remote_carrier,
                                                  std::string_view bytes) {
  auto key = DecodeRegionKey(bytes);
  if (!key.ok()) return key.status();
  if (remote_carrier != 0 && key->carrier != remote_carrier) {
    return absl::InvalidArgumentError(absl::StrCat("the region belongs to carrier ", key->carrier,
                                                   ", the peer is ", remote_carrier));
  }
  if (remote_.size() >= kRemoteRegionsMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(remote_.size(), " regions of peers, the most is ", kRemoteRegionsMax));
  }
  const RemoteRegionId id = next_++;
  remote_[id] = {peer, *key};
  return id;
}

void UcxRegions::Forget(PeerId peer) {
  std::erase_if(remote_, [peer](const auto& entry) { return entry.second.peer == peer; });
}

UcxLocalRegion* UcxRegions::Local(RegionId region) {
  const auto found = local_.find(region);
  return found == local_.end() ? nullptr : &found->second;
}

absl::StatusOr<RegionKey> UcxRegions::Find(const PutRequest& put) const {
  const auto found = remote_.find(put.region);
  if (found == remote_.end())
    return absl::NotFoundError(absl::StrCat("region ", put.region, " is not imported"));
  const UcxRemoteRegion& region = found->second;
  if (region.peer != put.peer) {
    return absl::InvalidArgumentError(
        absl::StrCat("region ", put.region, " is of peer ", region.peer, ", not ", put.peer));
  }
  if (auto status = CheckPut(put, region.key.size_bytes); !status.ok()) return status;
  return region.key;
}

}  // namespace muond
