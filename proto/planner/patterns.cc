#include "proto/planner/patterns.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace muond {
namespace {

constexpr double kTolerance = 1e-9;
constexpr int kIterationsMax = 400;         // columns generated for one relaxation
constexpr int64_t kKnapsackNodes = 20'000;  // visited for one column

// The dearest set of items that fits one bin.
class Knapsack {
 public:
  Knapsack(absl::Span<const SizeClass> classes, double capacity, const std::vector<double>& prices)
      : classes_(classes),
        prices_(prices),
        counts_(classes.size(), 0),
        best_counts_(classes.size(), 0) {
    for (size_t i = 0; i < classes.size(); ++i) {
      if (prices[i] > kTolerance && classes[i].count > 0) order_.push_back(i);
    }
    std::sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
      const double x = prices[a] * classes[b].size, y = prices[b] * classes[a].size;
      return x != y ? x > y : a < b;
    });
    Search(0, capacity * (1 + kTolerance), 0);
  }

  const std::vector<int64_t>& counts() const { return best_counts_; }
  double value() const { return best_; }
  double upper_bound() const {
    return std::max(best_, open_);
  }  // exact unless the search was cut short

 private:
  void Search(size_t at, double room, double value) {
    if (value > best_ + kTolerance) {
      best_ = value;
      best_counts_ = counts_;
    }
    if (at == order_.size()) return;
    const size_t i = order_[at];
    // No item from here on is dearer per size than this one.
    const double reachable = value + room * prices_[i] / classes_[i].size;
    if (reachable <= best_ + kTolerance) return;
    if (--nodes_ < 0) {
      open_ = std::max(open_, reachable);
      return;
    }
    const int64_t most = std::min(classes_[i].count, static_cast<int64_t>(room / classes_[i].size));
    for (int64_t take = most; take >= 0; --take) {
      counts_[i] = take;
      const double size = static_cast<double>(take) * classes_[i].size;
      Search(at + 1, room - size, value + static_cast<double>(take) * prices_[i]);
      // Taking fewer can only help when later classes fill the room at their own, lower rate.
      if (nodes_ < 0) open_ = std::max(open_, reachable);
      if (nodes_ < 0) break;
    }
    counts_[i] = 0;
  }

  absl::Span<const SizeClass> classes_;
  const std::vector<double>& prices_;
  std::vector<size_t> order_;
  std::vector<int64_t> counts_, best_counts_;
  double best_ = 0, open_ = 0;
  int64_t nodes_ = kKnapsackNodes;
};

// The relaxation: a basis of as many patterns as there are classes, and its inverse.
class Relaxation {
 public:
  Relaxation(absl::Span<const SizeClass> classes, double capacity)
      : classes_(classes), n_(classes.size()), inverse_(n_ * n_, 0), use_(n_, 0), cost_(n_, 1) {
    columns_.assign(n_, std::vector<double>(n_, 0));
    for (size_t i = 0; i < n_; ++i) {
      // Start: each class alone in its bins.
      const double fits = std::max(1.0, std::floor(capacity * (1 + kTolerance) / classes[i].size));
      columns_[i][i] = std::min(fits, std::max(1.0, static_cast<double>(classes[i].count)));
      inverse_[i * n_ + i] = 1 / columns_[i][i];
      use_[i] = static_cast<double>(classes[i].count) / columns_[i][i];
    }
    Solve(capacity);
  }

  double bound() const { return bound_; }  // proven bins
  const std::vector<std::vector<double>>& columns() const { return columns_; }
  double use(size_t i) const {
    return cost_[i] > 0 ? use_[i] : 0;
  }  // a surplus column uses no bins

 private:
  void Solve(double capacity) {
    for (int iteration = 0; iteration < kIterationsMax; ++iteration) {
      std::vector<double> prices(n_, 0);
      for (size_t row = 0; row < n_; ++row) {
        for (size_t i = 0; i < n_; ++i) prices[i] += cost_[row] * inverse_[row * n_ + i];
      }
      size_t negative = n_;
      for (size_t i = 0; i < n_ && negative == n_; ++i) {
        if (prices[i] < -kTolerance) negative = i;
      }
      std::vector<double> entering(n_, 0);
      double cost = 1;
      if (negative < n_) {
        entering[negative] = -1;  // an item more than asked for may be left out again
        cost = 0;
      } else {
        for (double& price : prices) price = std::max(price, 0.0);
        const Knapsack knapsack(classes_, capacity, prices);
        double total = 0;
        for (size_t i = 0; i < n_; ++i) total += prices[i] * static_cast<double>(classes_[i].count);
        if (knapsack.upper_bound() > 0) bound_ = std::max(bound_, total / knapsack.upper_bound());
        if (knapsack.value() <= 1 + 1e-7) return;
        for (size_t i = 0; i < n_; ++i) entering[i] = static_cast<double>(knapsack.counts()[i]);
      }
      if (!Pivot(std::move(entering), cost)) return;
    }
  }

  bool Pivot(std::vector<double> entering, double cost) {
    std::vector<double> direction(n_, 0);
    for (size_t row = 0; row < n_; ++row) {
      for (size_t i = 0; i < n_; ++i) direction[row] += inverse_[row * n_ + i] * entering[i];
    }
    size_t leaving = n_;
    double ratio = std::numeric_limits<double>::infinity();
    for (size_t row = 0; row < n_; ++row) {
      if (direction[row] > 1e-9 && use_[row] / direction[row] < ratio - 1e-12) {
        ratio = use_[row] / direction[row];
        leaving = row;
      }
    }
    if (leaving == n_) return false;
    for (size_t row = 0; row < n_; ++row) use_[row] -= row == leaving ? 0 : ratio * direction[row];
    use_[leaving] = ratio;
    for (size_t row = 0; row < n_; ++row) use_[row] = std::max(use_[row], 0.0);
    const double pivot = direction[leaving];
    for (size_t i = 0; i < n_; ++i) inverse_[leaving * n_ + i] /= pivot;
    for (size_t row = 0; row < n_; ++row) {
      if (row == leaving || direction[row] == 0) continue;
      for (size_t i = 0; i < n_; ++i)
        inverse_[row * n_ + i] -= direction[row] * inverse_[leaving * n_ + i];
    }
    columns_[leaving] = std::move(entering);
    cost_[leaving] = cost;
    return true;
  }

  absl::Span<const SizeClass> classes_;
  const size_t n_;
  std::vector<double> inverse_;               // of the basis, row-major
  std::vector<double> use_;                   // how often each basic pattern is used
  std::vector<double> cost_;                  // 1 for a pattern, 0 for a surplus column
  std::vector<std::vector<double>> columns_;  // the basic patterns
  double bound_ = 0;
};

double LargestSize(absl::Span<const SizeClass> classes) {
  double largest = 0;
  for (const SizeClass& one : classes) largest = std::max(largest, one.count > 0 ? one.size : 0);
  return largest;
}

// Only classes that still have items, so that the relaxation's rows are independent.
std::vector<SizeClass> Compact(absl::Span<const SizeClass> classes, std::vector<size_t>* origin) {
  std::vector<SizeClass> compact;
  for (size_t i = 0; i < classes.size(); ++i) {
    if (classes[i].count == 0) continue;
    compact.push_back(classes[i]);
    origin->push_back(i);
  }
  return compact;
}

}  // namespace

double BinsNeeded(absl::Span<const SizeClass> classes, double capacity) {
  if (LargestSize(classes) > capacity * (1 + kTolerance))
    return std::numeric_limits<double>::infinity();
  std::vector<size_t> origin;
  const std::vector<SizeClass> compact = Compact(classes, &origin);
  return compact.empty() ? 0 : Relaxation(compact, capacity).bound();
}

double ProvenCapacity(absl::Span<const SizeClass> classes, int64_t bins, double low, double high) {
  double proven = low;
  for (int step = 0; step < 14; ++step) {  // to 1/16384 of the interval
    const double middle = (low + high) / 2;
    if (BinsNeeded(classes, middle) > static_cast<double>(bins) * (1 + 1e-6)) {
      proven = low = middle;
    } else {
      high = middle;
    }
  }
  return proven;
}

std::optional<std::vector<Pattern>> Pack(absl::Span<const SizeClass> classes, double capacity,
                                         int64_t bins) {
  if (LargestSize(classes) > capacity * (1 + kTolerance)) return std::nullopt;
  std::vector<SizeClass> left(classes.begin(), classes.end());
  std::vector<Pattern> packed;
  const auto take = [&](const std::vector<double>& column, const std::vector<size_t>& origin,
                        int64_t times) {
    for (int64_t done = 0; done < times;) {
      Pattern pattern{std::vector<int64_t>(left.size(), 0), times - done};
      for (size_t i = 0; i < column.size(); ++i) {
        const int64_t wanted = static_cast<int64_t>(column[i]), have = left[origin[i]].count;
        pattern.counts[origin[i]] = std::min(wanted, have);
        if (wanted > 0 && have < wanted * pattern.bins)
          pattern.bins = std::max<int64_t>(1, have / wanted);
      }
      if (std::all_of(pattern.counts.begin(), pattern.counts.end(),
                      [](int64_t count) { return count == 0; }))
        return;
      for (size_t i = 0; i < left.size(); ++i) left[i].count -= pattern.counts[i] * pattern.bins;
      bins -= pattern.bins;
      done += pattern.bins;
      packed.push_back(std::move(pattern));
    }
  };
  while (true) {
    std::vector<size_t> origin;
    const std::vector<SizeClass> compact = Compact(left, &origin);
    if (compact.empty()) return packed;
    if (bins <= 0) return std::nullopt;
    const Relaxation relaxation(compact, capacity);
    if (relaxation.bound() > static_cast<double>(bins) * (1 + 1e-6)) return std::nullopt;
    bool whole = false;
    size_t most = 0;
    for (size_t p = 0; p < compact.size(); ++p) {
      if (relaxation.use(p) > relaxation.use(most)) most = p;
      const auto times = static_cast<int64_t>(relaxation.use(p) + 1e-7);
      if (times >= 1) {
        take(relaxation.columns()[p], origin, times);
        whole = true;
      }
    }
    if (!whole) take(relaxation.columns()[most], origin, 1);  // dive: the most used pattern, once
    if (bins < 0) return std::nullopt;
  }
}

}  // namespace muond
