// Cell: one 64-bit timeline value in a host page that several processes map.
// Values only grow; a waiter waits for "at least". Stored with release, read with acquire, so that
// whatever was written before a store is seen by whoever saw the value.
// Units: a cell's value is a step number unless its owner says otherwise. Steps start at 1.
#pragma once

#include <atomic>
#include <cstdint>

namespace muond {

using Cell = std::atomic<uint64_t>;
static_assert(sizeof(Cell) == 8 && Cell::is_always_lock_free);

// A value that satisfies every wait and equals no step: whoever reads it back gives up.
// Below INT64_MAX because CUDA's wait-value compares cyclically.
inline constexpr uint64_t kPoison = uint64_t{1} << 62;

}  // namespace muond
