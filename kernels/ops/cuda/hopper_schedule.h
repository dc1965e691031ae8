// MakeSchedule: the order in which one persistent launch works through a list of products, and who waits for whom.
//
// Dependencies come from the bytes that products read and write; products of one phase have none among each other.
// Products that depend on each other, directly or not, form a chain (one matrix's Newton-Schulz, say). Chains are worked
// through in windows, phase by phase within a window: enough chains that the others' tiles between two dependent
// products of one chain occupy every cluster (or clusters would stand waiting), and no more than that, since what a
// window works on should stay in L2. Chains too narrow to fill anything are dealt evenly to all windows.
// Pure bookkeeping on the host. The order never changes a result's bits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops/ops.h"

namespace muond::hopper {

struct Schedule {
  struct Item {
    uint32_t product;                 // its place in the caller's list
    std::vector<uint32_t> waits_for;  // places in `items`, all earlier
  };
  std::vector<Item> items;
  uint32_t windows = 0;
};

// The 256 x 256 tiles of D that a cluster works on one at a time: below and on the diagonal when symmetric.
uint64_t TileCount(const Product& product);

// `phase_ends[i]` is the index behind the last product of phase i; empty: one phase. `multiprocessors` of the device.
Schedule MakeSchedule(absl::Span<const Product> products, absl::Span<const size_t> phase_ends,
                      int multiprocessors);

}  // namespace muond::hopper
