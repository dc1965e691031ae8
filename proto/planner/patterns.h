// Patterns: packing a few sizes, many of each, into equal bins. For balancing matrices a bin is a device, its capacity a
// makespan; models have few shapes, so few sizes, and what one device may hold is a short list of counts (a pattern).
//
// The bound is the linear relaxation over all patterns, by column generation (Gilmore and Gomory): minimise the number
// of bins so that every item is in one. For any prices y >= 0 of the sizes, no packing needs fewer bins than
// (sum of all prices) / (dearest set that fits one bin). That is a proof which needs no trust in the solver: only the
// knapsack below must not miss a dearer set, and where it stops early it answers with its upper bound.
//
// Threads: pure functions.   Deterministic: equal inputs give equal answers (work is limited by counts, not by time).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/types/span.h"

namespace muond {

struct SizeClass {
  double size = 0;    // > 0
  int64_t count = 0;  // items of this size
};

// `bins` bins, each with counts[i] items of class i.
struct Pattern {
  std::vector<int64_t> counts;
  int64_t bins = 0;
};

// No packing into bins of `capacity` uses fewer than this. Infinite when an item is larger than the capacity.
double BinsNeeded(absl::Span<const SizeClass> classes, double capacity);

// A capacity below which no packing into `bins` bins exists, between `low` and `high`; `low` when nothing beyond it
// can be proven.
double ProvenCapacity(absl::Span<const SizeClass> classes, int64_t bins, double low, double high);

// A packing of everything into at most `bins` bins of `capacity`, by diving into the relaxation; nullopt when none is
// found (one may exist).
std::optional<std::vector<Pattern>> Pack(absl::Span<const SizeClass> classes, double capacity,
                                         int64_t bins);

}  // namespace muond
