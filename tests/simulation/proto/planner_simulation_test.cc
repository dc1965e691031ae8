// A cluster of ten thousand devices: 100,000 matrices planned at once, then days of daemons coming and going, replanned
// each time. Times are printed; limits are generous, for sanitizers and busy machines.
#include <chrono>
#include <cstdio>
#include <random>

#include "gtest/gtest.h"
#include "proto/planner/planner.h"
#include "tests/support/model_lists.h"

namespace muond {
namespace {

double Since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Shapes as in a large mixture of experts beside dense layers.
Manifest HundredThousand() {
  Manifest manifest = testing::EmptyManifest(1, "large");
  const std::vector<std::vector<int64_t>> shapes = {
      {768, 2048}, {2048, 768}, {4096, 2048}, {512, 2048}, {2048, 4096}};
  for (int i = 0; i < 100'000; ++i) {
    manifest.tensors.push_back(testing::Tensor(
        "t" + std::to_string(i), shapes[static_cast<size_t>(i % 97 < 80 ? i % 2 : 2 + i % 3)]));
  }
  return manifest;
}

TEST(PlannerSimulationTest, AHundredThousandMatricesOnTenThousandDevicesPlanInSeconds) {
  const Manifest manifest = HundredThousand();
  const std::vector<DeviceSpec> devices = testing::GpuDevices(10'000, uint64_t{80} << 30);
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<Planned> planned = MakePlan({&manifest, {}, devices, nullptr, 1});
  const double seconds = Since(start);
  ASSERT_TRUE(planned.ok()) << planned.status();
  std::printf("planned in %.2f s: %s\n", seconds, planned->plan.reason.c_str());
  EXPECT_LT(seconds, 30);
  EXPECT_LE(planned->makespan_seconds, 1.02 * planned->proven_seconds);
}

TEST(PlannerSimulationTest, DistinctSizesPlanInSecondsToo) {
  // No two alike: nothing for patterns to hold on to.
  Manifest manifest = testing::EmptyManifest(1, "distinct");
  std::mt19937_64 random(11);
  for (int i = 0; i < 100'000; ++i) {
    manifest.tensors.push_back(testing::Tensor(
        "t" + std::to_string(i),
        {64 + static_cast<int64_t>(random() % 4000), 64 + static_cast<int64_t>(random() % 4000)}));
  }
  const std::vector<DeviceSpec> devices = testing::GpuDevices(10'000);
  const auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<Planned> planned = MakePlan({&manifest, {}, devices, nullptr, 1});
  const double seconds = Since(start);
  ASSERT_TRUE(planned.ok()) << planned.status();
  std::printf("planned in %.2f s: %s\n", seconds, planned->plan.reason.c_str());
  EXPECT_LT(seconds, 60);
  EXPECT_LE(planned->makespan_seconds, 1.02 * planned->lower_bound_seconds);
}

TEST(PlannerSimulationTest, DaemonsComeAndGoAndLittleMoves) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const Manifest manifest = testing::ManifestOf(testing::ModelLists()[3]);
  const std::vector<DeviceSpec> all = testing::GpuDevices(1600);  // 200 daemons of 8
  std::vector<bool> up(200, true);
  Plan plan;
  for (int event = 0; event < 40; ++event) {
    const size_t daemon = random() % up.size();
    up[daemon] = !up[daemon];
    std::vector<DeviceSpec> devices;
    for (size_t d = 0; d < all.size(); ++d) {
      if (up[d / 8]) devices.push_back(all[d]);
    }
    const absl::StatusOr<Planned> next = MakePlan(
        {&manifest, {}, devices, event == 0 ? nullptr : &plan, static_cast<uint64_t>(event + 1)});
    ASSERT_TRUE(next.ok()) << next.status();
    ASSERT_LE(next->makespan_seconds,
              1.02 * std::max(next->lower_bound_seconds, next->proven_seconds));
    if (event > 0) {
      // One daemon of 200 changed: what moves is its share, and what rebalancing needs.
      ASSERT_GT(static_cast<double>(next->kept), 0.8 * static_cast<double>(next->preferring))
          << "event " << event;
    }
    plan = next->plan;
  }
}

}  // namespace
}  // namespace muond
