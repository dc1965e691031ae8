#include "proto/planner/balance.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/planner/patterns.h"

namespace muond {
namespace {

constexpr size_t kClassesMax =
    48;  // beyond it patterns cost too much, and moves have enough to choose from
constexpr double kGoodEnough = 1.003;   // of what is proven possible: no further search
constexpr int64_t kMovesMax = 200'000;  // of local improvement
constexpr int64_t kMatchingMax = 20'000'000;

// Items that no plan can tell apart.
struct ItemClass {
  std::vector<double> seconds;
  uint64_t size_bytes = 0;
  std::vector<int32_t> items;  // rising
  double longest() const { return *std::max_element(seconds.begin(), seconds.end()); }
};

// How many items of each class a device holds: rows of a dense table would be devices x classes, so short lists.
class Holding {
 public:
  int64_t Count(int32_t item_class) const {
    const auto at =
        std::lower_bound(held_.begin(), held_.end(), std::make_pair(item_class, int64_t{-1}));
    return at != held_.end() && at->first == item_class ? at->second : 0;
  }
  void Add(int32_t item_class, int64_t count) {
    auto at = std::lower_bound(held_.begin(), held_.end(), std::make_pair(item_class, int64_t{-1}));
    if (at == held_.end() || at->first != item_class) at = held_.insert(at, {item_class, 0});
    at->second += count;
    if (at->second == 0) held_.erase(at);
  }
  const std::vector<std::pair<int32_t, int64_t>>& held() const { return held_; }

 private:
  std::vector<std::pair<int32_t, int64_t>> held_;  // (class, count > 0), rising
};

struct Assignment {
  std::vector<Holding> holds;  // one a device
  std::vector<double> load;    // seconds
  std::vector<uint64_t> used;  // bytes
  double makespan() const { return load.empty() ? 0 : *std::max_element(load.begin(), load.end()); }
};

class Balancer {
 public:
  Balancer(absl::Span<const BalanceItem> items, absl::Span<const BalanceDevice> devices)
      : items_(items), devices_(devices) {
    MakeClasses();
    for (const BalanceDevice& device : devices_) kinds_ = std::max(kinds_, device.kind + 1);
    one_kind_ = std::all_of(devices_.begin(), devices_.end(), [&](const BalanceDevice& device) {
      return device.kind == devices_[0].kind;
    });
  }

  absl::StatusOr<Balance> Run() {
    Balance result;
    result.lower_bound = result.proven = LowerBound();
    absl::StatusOr<Assignment> first = LongestFirst();
    if (!first.ok()) return first.status();
    Assignment best = *std::move(first);
    Improve(best);
    if (one_kind_ && best.makespan() > kGoodEnough * result.lower_bound &&
        classes_.size() <= kClassesMax) {
      result.proven = std::max(result.lower_bound, Proven(result.lower_bound, best.makespan()));
      TryPatterns(result.proven, &best);
    }
    std::optional<Assignment> kept = KeepPreferred(result.proven);
    if (kept.has_value() &&
        kept->makespan() <= std::max(best.makespan(), kGoodEnough * result.proven)) {
      best = *std::move(kept);
    } else {
      MatchDevices(best);
    }
    Deal(best, &result);
    return result;
  }

 private:
  double Seconds(int32_t item_class, size_t device) const {
    return classes_[static_cast<size_t>(item_class)]
        .seconds[static_cast<size_t>(devices_[device].kind)];
  }
  uint64_t Bytes(int32_t item_class) const {
    return classes_[static_cast<size_t>(item_class)].size_bytes;
  }
  bool HasRoom(const Assignment& at, size_t device, uint64_t bytes) const {
    return bytes <= devices_[device].room_bytes - at.used[device];
  }

  void MakeClasses() {
    std::map<std::pair<std::vector<double>, uint64_t>, int32_t> index;
    for (size_t i = 0; i < items_.size(); ++i) {
      const auto [at, fresh] = index.try_emplace({items_[i].seconds, items_[i].size_bytes},
                                                 static_cast<int32_t>(classes_.size()));
      if (fresh) classes_.push_back({items_[i].seconds, items_[i].size_bytes, {}});
      classes_[static_cast<size_t>(at->second)].items.push_back(static_cast<int32_t>(i));
    }
    std::stable_sort(classes_.begin(), classes_.end(), [](const ItemClass& a, const ItemClass& b) {
      return a.longest() > b.longest();
    });
    class_of_.resize(items_.size());
    for (size_t c = 0; c < classes_.size(); ++c) {
      for (int32_t item : classes_[c].items)
        class_of_[static_cast<size_t>(item)] = static_cast<int32_t>(c);
    }
  }

  // With several kinds: every item where it is fastest, and all devices as busy as the mean of that.
  double LowerBound() const {
    double sum = 0, largest = 0;
    for (const ItemClass& one : classes_) {
      double fastest = one.seconds[static_cast<size_t>(devices_[0].kind)];
      for (const BalanceDevice& device : devices_) {
        if (one_kind_) break;
        fastest = std::min(fastest, one.seconds[static_cast<size_t>(device.kind)]);
      }
      sum += fastest * static_cast<double>(one.items.size());
      largest = std::max(largest, fastest);
    }
    return std::max(sum / static_cast<double>(devices_.size()), largest);
  }

  Assignment Empty() const {
    Assignment empty;
    empty.holds.resize(devices_.size());
    empty.load.assign(devices_.size(), 0);
    empty.used.assign(devices_.size(), 0);
    return empty;
  }
  void Put(Assignment& at, size_t device, int32_t item_class, int64_t count = 1) const {
    at.holds[device].Add(item_class, count);
    at.load[device] += Seconds(item_class, device) * static_cast<double>(count);
    at.used[device] += Bytes(item_class) * static_cast<uint64_t>(count);
  }

  absl::Status NoRoom(const Assignment& at, int32_t item_class) const {
    uint64_t needed = 0, room = 0, most = 0;
    for (const BalanceItem& item : items_) needed += item.size_bytes;
    for (size_t d = 0; d < devices_.size(); ++d) {
      room += devices_[d].room_bytes;
      most = std::max(most, devices_[d].room_bytes - at.used[d]);
    }
    return absl::ResourceExhaustedError(
        absl::StrFormat("an item needs %d bytes, the roomiest of %d devices has %d left; all items "
                        "need %d bytes, all "
                        "devices had %d",
                        Bytes(item_class), devices_.size(), most, needed, room));
  }

  // Places `counts[class]` further items, longest first, each where it is done first.
  absl::Status Fill(Assignment& at, const std::vector<int64_t>& counts) const {
    using Entry = std::pair<double, size_t>;  // (load, device)
    std::vector<std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>>> idle(
        static_cast<size_t>(kinds_));
    for (size_t d = 0; d < devices_.size(); ++d)
      idle[static_cast<size_t>(devices_[d].kind)].push({at.load[d], d});
    std::vector<Entry> full;
    for (size_t c = 0; c < classes_.size(); ++c) {
      const auto item_class = static_cast<int32_t>(c);
      for (int64_t i = 0; i < counts[c]; ++i) {
        size_t chosen = devices_.size();
        double done = 0;
        for (auto& queue : idle) {
          full.clear();
          while (!queue.empty() && !HasRoom(at, queue.top().second, Bytes(item_class))) {
            full.push_back(queue.top());
            queue.pop();
          }
          if (!queue.empty()) {
            const size_t device = queue.top().second;
            const double then = at.load[device] + Seconds(item_class, device);
            if (chosen == devices_.size() || then < done) {
              chosen = device;
              done = then;
            }
          }
          for (const Entry& entry : full) queue.push(entry);
        }
        if (chosen == devices_.size()) return NoRoom(at, item_class);
        Take(idle[static_cast<size_t>(devices_[chosen].kind)], chosen);
        Put(at, chosen, item_class);
        idle[static_cast<size_t>(devices_[chosen].kind)].push({at.load[chosen], chosen});
      }
    }
    return absl::OkStatus();
  }

  // Removes `device` from a queue where it is at, or (when fuller ones were passed over) near the top.
  template <typename Queue>
  static void Take(Queue& queue, size_t device) {
    std::vector<typename Queue::value_type> before;
    while (queue.top().second != device) {
      before.push_back(queue.top());
      queue.pop();
    }
    queue.pop();
    for (const auto& entry : before) queue.push(entry);
  }

  std::vector<int64_t> AllCounts() const {
    std::vector<int64_t> counts;
    for (const ItemClass& one : classes_) counts.push_back(static_cast<int64_t>(one.items.size()));
    return counts;
  }

  absl::StatusOr<Assignment> LongestFirst() const {
    Assignment at = Empty();
    if (absl::Status status = Fill(at, AllCounts()); !status.ok()) return status;
    return at;
  }

  // Moves one item off the heaviest device, or swaps it for a smaller one, while that shortens the makespan.
  void Improve(Assignment& at) const {
    using Entry = std::pair<double, size_t>;
    std::vector<Entry> order;
    for (size_t d = 0; d < devices_.size(); ++d) order.push_back({at.load[d], d});
    std::priority_queue<Entry> heavy(order.begin(), order.end());
    std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> light(order.begin(),
                                                                              order.end());
    for (int64_t move = 0; move < kMovesMax; ++move) {
      while (at.load[heavy.top().second] != heavy.top().first) heavy.pop();
      const size_t from = heavy.top().second;
      // The lightest few are tried: an improvement, if there is one, is nearly always with them.
      std::vector<Entry> tried;
      bool moved = false;
      while (!light.empty() && tried.size() < 16 && !moved) {
        const Entry entry = light.top();
        light.pop();
        if (at.load[entry.second] != entry.first) continue;  // out of date
        tried.push_back(entry);
        if (entry.second != from) moved = MoveOrSwap(at, from, entry.second);
      }
      if (moved) {
        heavy.push({at.load[from], from});
        light.push({at.load[from], from});
        heavy.push({at.load[tried.back().second], tried.back().second});
        light.push({at.load[tried.back().second], tried.back().second});
        tried.pop_back();
      }
      for (const Entry& entry : tried) {
        if (!(moved && entry.second == from)) light.push(entry);
      }
      if (!moved) return;
    }
  }

  bool MoveOrSwap(Assignment& at, size_t from, size_t to) const {
    const double before = at.load[from];
    double best = before * (1 - 1e-9);
    int32_t best_out = -1, best_in = -1;
    const auto consider = [&](int32_t out, int32_t in) {
      const double from_load = before - Seconds(out, from) + (in < 0 ? 0 : Seconds(in, from));
      const double to_load = at.load[to] + Seconds(out, to) - (in < 0 ? 0 : Seconds(in, to));
      const double heavier = std::max(from_load, to_load);
      if (heavier >= best) return;
      const uint64_t in_bytes = in < 0 ? 0 : Bytes(in);
      if (at.used[to] - in_bytes + Bytes(out) > devices_[to].room_bytes ||
          at.used[from] - Bytes(out) + in_bytes > devices_[from].room_bytes) {
        return;
      }
      best = heavier;
      best_out = out;
      best_in = in;
    };
    for (const auto& [out, out_count] : at.holds[from].held()) {
      consider(out, -1);
      for (const auto& [in, in_count] : at.holds[to].held()) {
        if (in != out) consider(out, in);
      }
    }
    if (best_out < 0) return false;
    Put(at, from, best_out, -1);
    Put(at, to, best_out);
    if (best_in >= 0) {
      Put(at, to, best_in, -1);
      Put(at, from, best_in);
    }
    return true;
  }

  std::vector<SizeClass> Sizes() const {
    // Classes that differ in bytes only are one size.
    std::vector<SizeClass> sizes;
    for (const ItemClass& one : classes_) {
      const double seconds = one.seconds[static_cast<size_t>(devices_[0].kind)];
      if (!sizes.empty() && sizes.back().size == seconds) {
        sizes.back().count += static_cast<int64_t>(one.items.size());
      } else {
        sizes.push_back({seconds, static_cast<int64_t>(one.items.size())});
      }
    }
    return sizes;
  }

  double Proven(double low, double high) const {
    return ProvenCapacity(Sizes(), static_cast<int64_t>(devices_.size()), low, high);
  }

  void TryPatterns(double proven, Assignment* best) const {
    const std::vector<SizeClass> sizes = Sizes();
    for (double slack : {1.0002, 1.001, 1.0025, 1.005, 1.0075, 1.01, 1.015, 1.02, 1.03, 1.05}) {
      const double capacity = proven * slack;
      if (capacity >= best->makespan()) return;
      const std::optional<std::vector<Pattern>> patterns =
          Pack(sizes, capacity, static_cast<int64_t>(devices_.size()));
      if (!patterns.has_value()) continue;
      std::optional<Assignment> packed = Apply(*patterns);
      if (!packed.has_value()) continue;
      Improve(*packed);
      if (packed->makespan() < best->makespan()) {
        *best = *std::move(packed);
        return;
      }
    }
  }

  // Patterns speak of sizes; classes of one size are taken in order. Nothing when a device has no room.
  std::optional<Assignment> Apply(const std::vector<Pattern>& patterns) const {
    std::vector<std::vector<std::pair<int32_t, int64_t>>> left;  // of each size: (class, items)
    double previous = -1;
    for (size_t c = 0; c < classes_.size(); ++c) {
      const double seconds = classes_[c].seconds[static_cast<size_t>(devices_[0].kind)];
      if (seconds != previous) left.emplace_back();
      previous = seconds;
      left.back().push_back(
          {static_cast<int32_t>(c), static_cast<int64_t>(classes_[c].items.size())});
    }
    Assignment at = Empty();
    size_t device = 0;
    for (const Pattern& pattern : patterns) {
      for (int64_t bin = 0; bin < pattern.bins; ++bin, ++device) {
        for (size_t s = 0; s < pattern.counts.size(); ++s) {
          for (int64_t wanted = pattern.counts[s]; wanted > 0;) {
            auto& [item_class, have] = left[s].back();
            const int64_t count = std::min(wanted, have);
            Put(at, device, item_class, count);
            wanted -= count;
            have -= count;
            if (have == 0) left[s].pop_back();
          }
        }
        if (at.used[device] > devices_[device].room_bytes) return std::nullopt;
      }
    }
    return at;
  }

  // Everything stays where it is preferred, what has no place is filled in, and moves repair the balance: few items
  // travel. Nothing when no item has a preference.
  std::optional<Assignment> KeepPreferred(double proven) const {
    Assignment at = Empty();
    std::vector<int64_t> open(classes_.size(), 0);
    bool any = false;
    for (size_t i = 0; i < items_.size(); ++i) {
      const int32_t item_class = class_of_[i], device = items_[i].preferred;
      // A device that is full of what it prefers already gives the rest away.
      const bool fits =
          device >= 0 && HasRoom(at, static_cast<size_t>(device), Bytes(item_class)) &&
          at.load[static_cast<size_t>(device)] + Seconds(item_class, static_cast<size_t>(device)) <=
              kGoodEnough * proven;
      if (fits) {
        Put(at, static_cast<size_t>(device), item_class);
        any = true;
      } else {
        ++open[static_cast<size_t>(item_class)];
      }
    }
    if (!any || !Fill(at, open).ok()) return std::nullopt;
    Improve(at);
    return at;
  }

  // Gives each device, in turn, the holding of its kind that has most of what the device prefers.
  void MatchDevices(Assignment& at) const {
    std::vector<Holding> preferred(devices_.size());
    bool any = false;
    for (size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].preferred < 0) continue;
      preferred[static_cast<size_t>(items_[i].preferred)].Add(class_of_[i], 1);
      any = true;
    }
    if (!any || !one_kind_) return;
    std::map<std::vector<std::pair<int32_t, int64_t>>, std::vector<size_t>> holdings;
    for (size_t d = devices_.size(); d-- > 0;) holdings[at.holds[d].held()].push_back(d);
    if (static_cast<int64_t>(holdings.size() * devices_.size()) > kMatchingMax) return;
    Assignment matched = Empty();
    for (size_t d = 0; d < devices_.size(); ++d) {
      auto best = holdings.end();
      int64_t most = -1;
      for (auto one = holdings.begin(); one != holdings.end(); ++one) {
        int64_t common = 0;
        uint64_t bytes = 0;
        for (const auto& [item_class, count] : one->first) {
          common += std::min(count, preferred[d].Count(item_class));
          bytes += Bytes(item_class) * static_cast<uint64_t>(count);
        }
        if (bytes <= devices_[d].room_bytes && common > most) {
          most = common;
          best = one;
        }
      }
      if (best == holdings.end())
        return;  // rooms differ and this order does not fit: leave them as they were
      for (const auto& [item_class, count] : best->first) Put(matched, d, item_class, count);
      best->second.pop_back();
      if (best->second.empty()) holdings.erase(best);
    }
    at = std::move(matched);
  }

  // From counts to items: first those that are preferred where there is a place, then the rest in order.
  void Deal(Assignment& at, Balance* result) const {
    result->owner.assign(items_.size(), -1);
    result->load = at.load;
    result->makespan = at.makespan();
    std::vector<Holding> places = at.holds;
    for (size_t i = 0; i < items_.size(); ++i) {
      const int32_t device = items_[i].preferred;
      if (device < 0 || places[static_cast<size_t>(device)].Count(class_of_[i]) == 0) continue;
      places[static_cast<size_t>(device)].Add(class_of_[i], -1);
      result->owner[i] = device;
      ++result->kept;
    }
    std::vector<std::vector<int32_t>> free(
        classes_.size());  // devices with places, the first one last
    for (size_t d = devices_.size(); d-- > 0;) {
      for (const auto& [item_class, count] : places[d].held()) {
        free[static_cast<size_t>(item_class)].insert(free[static_cast<size_t>(item_class)].end(),
                                                     static_cast<size_t>(count),
                                                     static_cast<int32_t>(d));
      }
    }
    for (size_t i = 0; i < items_.size(); ++i) {
      if (result->owner[i] >= 0) continue;
      std::vector<int32_t>& devices = free[static_cast<size_t>(class_of_[i])];
      result->owner[i] = devices.back();
      devices.pop_back();
    }
  }

  const absl::Span<const BalanceItem> items_;
  const absl::Span<const BalanceDevice> devices_;
  std::vector<ItemClass> classes_;  // longest first
  std::vector<int32_t> class_of_;
  int32_t kinds_ = 1;
  bool one_kind_ = true;
};

}  // namespace

absl::StatusOr<Balance> BalanceItems(absl::Span<const BalanceItem> items,
                                     absl::Span<const BalanceDevice> devices) {
  return Balancer(items, devices).Run();
}

}  // namespace muond
