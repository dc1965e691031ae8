// Properties of every plan: each item owned once, memory respected, the makespan within 2 % of max(mean, largest item) or
// of what is proven possible, the proof never above what some plan reaches.
#include <algorithm>
#include <random>

#include "gtest/gtest.h"
#include "proto/planner/balance.h"
#include "proto/planner/planner.h"
#include "tests/support/model_lists.h"

namespace muond {
namespace {

TEST(PlannerPropertyTest, EveryModelOnEveryNumberOfDevicesIsWithinTwoPercentOrProven) {
  for (const testing::ModelList& list : testing::ModelLists()) {
    const Manifest manifest = testing::ManifestOf(list);
    // All small counts, and a stride through the large ones that is prime to them.
    for (int count = 2; count <= 1024; count += count < 48 ? 1 : 37) {
      const std::vector<DeviceSpec> devices = testing::GpuDevices(count);
      const absl::StatusOr<Planned> planned = MakePlan({&manifest, {}, devices, nullptr, 1});
      ASSERT_TRUE(planned.ok()) << planned.status();
      const double against = std::max(planned->lower_bound_seconds, planned->proven_seconds);
      ASSERT_LE(planned->makespan_seconds, 1.02 * against)
          << list.model << " on " << count << " devices";
      ASSERT_GE(planned->makespan_seconds, against * (1 - 1e-6))
          << list.model << " on " << count << " devices";
      if (planned->makespan_seconds > 1.02 * planned->lower_bound_seconds) {
        ASSERT_NE(planned->plan.reason.find("no plan that keeps matrices whole"),
                  std::string::npos);
      }
    }
  }
}

// The shortest makespan, by trying everything.
double Best(const std::vector<BalanceItem>& items, std::vector<double>& load, size_t at,
            double best) {
  if (at == items.size()) return std::min(best, *std::max_element(load.begin(), load.end()));
  for (size_t d = 0; d < load.size(); ++d) {
    if (load[d] + items[at].seconds[0] >= best) continue;
    load[d] += items[at].seconds[0];
    best = Best(items, load, at + 1, best);
    load[d] -= items[at].seconds[0];
    if (load[d] == 0) break;  // empty devices are alike
  }
  return best;
}

TEST(PlannerPropertyTest, SmallRandomListsAreNearTheOptimumAndProofsNeverPassIt) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 400; ++round) {
    std::vector<BalanceItem> items;
    const int classes = 1 + static_cast<int>(random() % 4);
    for (int c = 0; c < classes; ++c) {
      const double seconds = 1 + static_cast<double>(random() % 20);
      for (int i = static_cast<int>(random() % 4); i >= 0; --i) items.push_back({{seconds}, 1, -1});
    }
    const std::vector<BalanceDevice> devices(2 + random() % 3, BalanceDevice{0, 1000});
    const absl::StatusOr<Balance> balance = BalanceItems(items, devices);
    ASSERT_TRUE(balance.ok());
    std::vector<double> load(devices.size(), 0);
    const double best = Best(items, load, 0, 1e9);
    ASSERT_LE(balance->proven, best * (1 + 1e-6));
    ASSERT_GE(balance->makespan, best * (1 - 1e-9));
    ASSERT_LE(balance->makespan, best * 1.2) << items.size() << " items on " << devices.size();
  }
}

TEST(PlannerPropertyTest, RandomListsWithMemoryAndPreferencesAreOwnedOnceAndFit) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    const size_t device_count = 1 + random() % 20;
    std::vector<BalanceItem> items;
    uint64_t bytes = 0;
    for (size_t i = 1 + random() % 300; i > 0; --i) {
      const double seconds = 1 + static_cast<double>(random() % 30);
      items.push_back({{seconds, seconds / 10},
                       1 + random() % 50,
                       static_cast<int32_t>(random() % (device_count + 1)) - 1});
      bytes += items.back().size_bytes;
    }
    std::vector<BalanceDevice> devices;
    for (size_t d = 0; d < device_count; ++d) {
      devices.push_back(
          {round % 2 == 0 ? 0 : static_cast<int32_t>(random() % 2), bytes / device_count + 60});
    }
    const absl::StatusOr<Balance> balance = BalanceItems(items, devices);
    ASSERT_TRUE(balance.ok()) << balance.status();
    std::vector<double> load(device_count, 0);
    std::vector<uint64_t> used(device_count, 0);
    ASSERT_EQ(balance->owner.size(), items.size());
    int64_t kept = 0;
    for (size_t i = 0; i < items.size(); ++i) {
      const auto owner = static_cast<size_t>(balance->owner[i]);
      ASSERT_LT(owner, device_count);
      load[owner] += items[i].seconds[static_cast<size_t>(devices[owner].kind)];
      used[owner] += items[i].size_bytes;
      kept += balance->owner[i] == items[i].preferred ? 1 : 0;
    }
    ASSERT_EQ(kept, balance->kept);
    for (size_t d = 0; d < device_count; ++d) {
      ASSERT_LE(used[d], devices[d].room_bytes);
      ASSERT_NEAR(load[d], balance->load[d], 1e-6);
    }
    ASSERT_GE(balance->makespan, balance->lower_bound * (1 - 1e-9));
  }
}

}  // namespace
}  // namespace muond
