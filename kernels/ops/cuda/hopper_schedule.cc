#include "kernels/ops/cuda/hopper_schedule.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "kernels/ops/cuda/hopper_program.h"

namespace muond::hopper {
namespace {

// Which earlier products a product must wait for: those that wrote what it touches, or read what it writes.
class DependencyFinder {
 public:
  std::vector<uint32_t> Add(const Product& p, uint32_t index) {
    std::vector<uint32_t> found;
    for (const Matrix* m : {&p.a, &p.b, &p.c}) Touch(*m, false, index, &found);
    for (const Matrix* m : {&p.d, &p.d2}) Touch(*m, true, index, &found);
    return found;
  }

  // A write supersedes every older access that it covers: whoever waits for the writer waits for those too.
  void EndPhase() {
    for (const auto& [start, access] : current_) {
      if (!access.write) continue;
      auto it = done_.lower_bound(start);
      while (it != done_.end() && it->first < access.end) {
        it = it->second.end <= access.end ? done_.erase(it) : std::next(it);
      }
    }
    for (const auto& [start, access] : current_) {
      longest_ = std::max(longest_, access.end - start);
      done_.emplace(start, access);
    }
    current_.clear();
  }

 private:
  struct Access {
    uintptr_t end = 0;
    uint32_t by = 0;
    bool write = false;
  };

  void Touch(const Matrix& m, bool write, uint32_t index, std::vector<uint32_t>* found) {
    if (m.data == nullptr) return;
    const auto start = reinterpret_cast<uintptr_t>(m.data);
    const auto elements = static_cast<uintptr_t>((m.rows - 1) * m.ld + m.cols);
    const uintptr_t end = start + elements * SizeOf(m.dtype);
    auto it = done_.lower_bound(start > longest_ ? start - longest_ : 0);
    for (; it != done_.end() && it->first < end; ++it) {
      const Access& access = it->second;
      if (access.end <= start || (!write && !access.write)) continue;
      if (std::find(found->begin(), found->end(), access.by) == found->end()) {
        found->push_back(access.by);
      }
    }
    current_.push_back({start, {end, index, write}});
  }

  std::multimap<uintptr_t, Access> done_;              // of earlier phases, by start
  std::vector<std::pair<uintptr_t, Access>> current_;  // of this phase
  uintptr_t longest_ = 0;
};

struct Chain {
  std::vector<uint32_t> products;  // in list order
  uint64_t width = UINT64_MAX;     // tiles of its narrowest product
  int64_t side = 0;                // rows of that product
};

std::vector<Chain> FindChains(absl::Span<const Product> products,
                              const std::vector<std::vector<uint32_t>>& waits_for) {
  std::vector<uint32_t> root(products.size());
  std::iota(root.begin(), root.end(), 0u);
  const auto find = [&root](uint32_t i) {
    while (root[i] != i) i = root[i] = root[root[i]];
    return i;
  };
  for (uint32_t i = 0; i < products.size(); ++i) {
    for (const uint32_t before : waits_for[i]) {
      const uint32_t a = find(before), b = find(i);
      root[std::max(a, b)] = std::min(a, b);
    }
  }
  std::vector<Chain> chains;
  std::vector<uint32_t> place(products.size(), UINT32_MAX);
  for (uint32_t i = 0; i < products.size(); ++i) {
    uint32_t& at = place[find(i)];
    if (at == UINT32_MAX) {
      at = static_cast<uint32_t>(chains.size());
      chains.emplace_back();
    }
    chains[at].products.push_back(i);
    const uint64_t tiles = TileCount(products[i]);
    if (tiles < chains[at].width) {
      chains[at].width = tiles;
      chains[at].side = products[i].d.rows;
    }
  }
  return chains;
}

// How many tiles must lie between two dependent products for the later one to find the earlier one done: one for every
// cluster, and the more the shorter a tile takes beside the 4 us or so from its last store to the next load.
uint64_t WantedGap(int64_t side, int multiprocessors) {
  const double k_blocks = static_cast<double>((side + kDepth - 1) / kDepth);
  const double clusters = multiprocessors / 2;
  return static_cast<uint64_t>(clusters * (1 + 64 / (k_blocks * k_blocks)));
}

// Chains by width, wide ones first; a window is full when the tiles of the chains beside its first make the gap.
std::vector<std::vector<const Chain*>> MakeWindows(const std::vector<Chain>& chains,
                                                   int multiprocessors) {
  constexpr uint64_t kNarrow = 3;  // tiles: matrices up to 512
  std::vector<const Chain*> wide, narrow;
  for (const Chain& chain : chains) (chain.width <= kNarrow ? narrow : wide).push_back(&chain);
  if (wide.empty()) wide.swap(narrow);
  std::stable_sort(wide.begin(), wide.end(),
                   [](const Chain* a, const Chain* b) { return a->width > b->width; });
  std::vector<std::vector<const Chain*>> windows;
  uint64_t gap = 0, wanted = 0;
  for (const Chain* chain : wide) {
    if (windows.empty() || gap >= wanted) {
      windows.emplace_back();
      gap = 0;
      wanted = WantedGap(chain->side, multiprocessors);
    } else {
      gap += chain->width;
    }
    windows.back().push_back(chain);
  }
  // A last window too narrow to hide its own waits joins the one before.
  if (windows.size() > 1 && gap < wanted) {
    const std::vector<const Chain*> last = std::move(windows.back());
    windows.pop_back();
    windows.back().insert(windows.back().end(), last.begin(), last.end());
  }
  for (size_t i = 0; i < narrow.size(); ++i) {
    windows[i * windows.size() / narrow.size()].push_back(narrow[i]);
  }
  return windows;
}

}  // namespace

uint64_t TileCount(const Product& p) {
  const auto rows = static_cast<uint64_t>((p.d.rows + kTile - 1) / kTile);
  const auto columns = static_cast<uint64_t>((p.d.cols + kTile - 1) / kTile);
  return p.symmetric ? rows * (rows + 1) / 2 : rows * columns;
}

Schedule MakeSchedule(absl::Span<const Product> products, absl::Span<const size_t> phase_ends,
                      int multiprocessors) {
  DependencyFinder finder;
  std::vector<std::vector<uint32_t>> waits_for(products.size());
  std::vector<uint32_t> phase_of(products.size());
  uint32_t phase = 0;
  for (size_t i = 0; i < products.size(); ++i) {
    if (phase < phase_ends.size() && i >= phase_ends[phase]) {
      finder.EndPhase();
      while (phase < phase_ends.size() && i >= phase_ends[phase]) ++phase;
    }
    phase_of[i] = phase;
    // Whoever waits for a product waits for what that product waited for.
    const std::vector<uint32_t> found = finder.Add(products[i], static_cast<uint32_t>(i));
    for (const uint32_t before : found) {
      const bool implied = std::any_of(found.begin(), found.end(), [&](uint32_t other) {
        return std::find(waits_for[other].begin(), waits_for[other].end(), before) !=
               waits_for[other].end();
      });
      if (!implied) waits_for[i].push_back(before);
    }
  }
  const std::vector<Chain> chains = FindChains(products, waits_for);
  const auto windows = MakeWindows(chains, multiprocessors);

  Schedule schedule;
  schedule.windows = static_cast<uint32_t>(windows.size());
  schedule.items.reserve(products.size());
  std::vector<uint32_t> place(products.size());
  for (const auto& window : windows) {
    std::vector<uint32_t> order;
    for (const Chain* chain : window) {
      order.insert(order.end(), chain->products.begin(), chain->products.end());
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return phase_of[a] < phase_of[b]; });
    for (const uint32_t product : order) {
      place[product] = static_cast<uint32_t>(schedule.items.size());
      std::vector<uint32_t> places;
      for (const uint32_t before : waits_for[product]) places.push_back(place[before]);
      schedule.items.push_back({product, std::move(places)});
    }
  }
  return schedule;
}

}  // namespace muond::hopper
