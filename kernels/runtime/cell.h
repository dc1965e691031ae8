// Cell: one 64-bit timeline value in a host page that several processes map.
// Values only grow; a waiter waits for "at least". Stored with release, read with acquire, so that
// whatever was written before a store is seen by whoever saw the value.
// Units: a cell's value is a step number unless its owner says otherwise. Steps start at 1.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace muond {

using Cell = std::atomic<uint64_t>;
static_assert(sizeof(Cell) == 8 && Cell::is_always_lock_free);

// A value that satisfies every wait and equals no step: whoever reads it back gives up.
// Below INT64_MAX because CUDA's wait-value compares cyclically.
inline constexpr uint64_t kPoison = uint64_t{1} << 62;

// Stores with release and wakes the threads of any process that sleep in WaitCell on this cell.
// A plain store releases them too, up to kCellPoll later.
void StoreCell(Cell* cell, uint64_t value);

// Blocks the calling thread until *cell >= at_least, or until `timeout` has passed: then false.
// Looks for a few microseconds, then sleeps on a futex; costs no core however long it waits.
bool WaitCell(const Cell* cell, uint64_t at_least, std::chrono::nanoseconds timeout);

// The longest sleep between two looks of WaitCell: what a store without a wake-up may cost.
inline constexpr std::chrono::microseconds kCellPoll{500};

}  // namespace muond
