// SlabInfo: what the keeper knows of a kept slab. The label is for people; nothing is decided by
// it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "proto/wire/keeper_message.h"

namespace muond {

struct SlabInfo {
  uint64_t slab = 0;  // minted by the stepper, random, never 0
  SlabKind kind = SlabKind::kCatalog;
  uint64_t size_bytes = 0;
  uint64_t job = 0;
  uint64_t session = 0;  // whose slab it is; 0 for those of the job
  uint32_t rank = 0;
  uint32_t device = kHostDevice;
  std::string label;  // cut at 71 bytes on the wire
};

KeeperMessage ToMessage(KeeperVerb verb, const SlabInfo& info);
SlabInfo ToSlabInfo(const KeeperMessage& message);

}  // namespace muond
