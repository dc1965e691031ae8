// Items: how a manifest falls into units of ownership. A pure function of the manifest alone, so an
// item's position names the same rows under every plan, on every daemon and rank, for as long as
// the manifest holds.
//
// First one item per Muon matrix (tensors in order, their matrices in order), then the AdamW
// tensors, in order, packed into chunks of row runs: a chunk closes when the next row would pass
// ChunkElements.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/types/manifest.h"
#include "proto/types/plan.h"

namespace muond {

// clamp(AdamW elements / 8, 64 Ki, 8 Mi): small jobs still spread over devices, and a chunk of a
// large one is 32 MiB.
int64_t ChunkElements(const Manifest& manifest);

// Items without owner and cost. INVALID_ARGUMENT beyond kItemsMax.
// REQUIRES: a valid manifest.
absl::StatusOr<std::vector<PlanItem>> ItemsOf(const Manifest& manifest);

}  // namespace muond
