#include "proto/planner/planner.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/types/items.h"
#include "tests/support/manifests.h"
#include "tests/support/model_lists.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::GpuDevices;
using ::muond::testing::Replicated;
using ::muond::testing::RowSharded;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

Manifest Job(int32_t world_size = 2) {
  Manifest manifest = EmptyManifest(world_size);
  for (int i = 0; i < 8; ++i)
    manifest.tensors.push_back(Tensor("w" + std::to_string(i), {256, 256}));
  manifest.tensors.push_back(Tensor("embedding", {4096, 64}, Rule::kAdamW));
  return manifest;
}

TEST(PlannerTest, APlanIsValidAndSaysWhy) {
  const Manifest manifest = Job();
  const std::vector<RankManifest> ranks = RowSharded(manifest);
  const std::vector<DeviceSpec> devices = GpuDevices(4);
  const absl::StatusOr<Planned> planned = MakePlan({&manifest, ranks, devices, nullptr, 3});
  ASSERT_TRUE(planned.ok()) << planned.status();
  EXPECT_TRUE(Validate(manifest, planned->plan).ok()) << Validate(manifest, planned->plan);
  EXPECT_EQ(planned->plan.epoch, 3u);
  EXPECT_THAT(planned->plan.reason, HasSubstr("items on 4 devices"));
  double sum = 0;
  for (const PlanItem& item : planned->plan.items) sum += item.cost_seconds;
  double loads = 0;
  for (double load : planned->plan.device_cost_seconds) loads += load;
  EXPECT_NEAR(sum, loads, 1e-12);
}

TEST(PlannerTest, EqualInputsGiveEqualPlans) {
  const Manifest manifest = testing::ManifestOf(testing::ModelLists()[4]);
  const std::vector<DeviceSpec> devices = GpuDevices(37);
  const Planned a = *MakePlan({&manifest, {}, devices, nullptr, 1});
  const Planned b = *MakePlan({&manifest, {}, devices, nullptr, 1});
  ASSERT_EQ(a.plan.items.size(), b.plan.items.size());
  for (size_t i = 0; i < a.plan.items.size(); ++i)
    ASSERT_EQ(a.plan.items[i].owner, b.plan.items[i].owner);
}

TEST(PlannerTest, ReplanningOnTheSameDevicesMovesNothing) {
  const Manifest manifest = testing::ManifestOf(testing::ModelLists()[0]);
  const std::vector<DeviceSpec> devices = GpuDevices(16);
  const Planned first = *MakePlan({&manifest, {}, devices, nullptr, 1});
  const Planned second = *MakePlan({&manifest, {}, devices, &first.plan, 2});
  EXPECT_EQ(second.kept, static_cast<int64_t>(first.plan.items.size()));
}

TEST(PlannerTest, WhenADeviceGoesTheOthersKeepMostOfTheirs) {
  const Manifest manifest = testing::ManifestOf(testing::ModelLists()[3]);
  std::vector<DeviceSpec> devices = GpuDevices(16);
  const Planned first = *MakePlan({&manifest, {}, devices, nullptr, 1});
  devices.erase(devices.begin() + 5);
  const Planned second = *MakePlan({&manifest, {}, devices, &first.plan, 2});
  EXPECT_GT(static_cast<double>(second.kept), 0.99 * static_cast<double>(second.preferring));
  EXPECT_LT(second.makespan_seconds, 1.01 * second.proven_seconds);
}

TEST(PlannerTest, ItemsGoWhereTheirShardsLie) {
  // Two ranks, each on its own device, hold whole tensors: tensor t lies with rank t % 2.
  Manifest manifest = Job(2);
  manifest.tensors.pop_back();
  const std::vector<DeviceSpec> devices = GpuDevices(2);
  std::vector<RankManifest> ranks(2);
  for (int32_t r = 0; r < 2; ++r) {
    ranks[static_cast<size_t>(r)].rank = r;
    ranks[static_cast<size_t>(r)].device_uuid = devices[static_cast<size_t>(1 - r)].uuid;
    for (int32_t t = r; t < 8; t += 2)
      ranks[static_cast<size_t>(r)].shards.push_back(testing::Whole(manifest, t));
  }
  const Planned planned = *MakePlan({&manifest, ranks, devices, nullptr, 1});
  for (size_t t = 0; t < 8; ++t)
    EXPECT_EQ(planned.plan.items[t].owner, static_cast<int32_t>(1 - t % 2));
  EXPECT_THAT(planned.plan.reason, HasSubstr("8 of 8 items stay where their shards lie"));
}

TEST(PlannerTest, SummedReplicasCostTheirTravel) {
  const Manifest manifest = Job(4);
  std::vector<RankManifest> same = Replicated(manifest), summed = same;
  for (RankManifest& rank : summed) {
    for (ShardSpec& shard : rank.shards) shard.replica_kind = ReplicaKind::kSum;
  }
  const std::vector<DeviceSpec> devices = GpuDevices(2);
  EXPECT_GT(MakePlan({&manifest, summed, devices, nullptr, 1})->plan.items[0].cost_seconds,
            MakePlan({&manifest, same, devices, nullptr, 1})->plan.items[0].cost_seconds);
}

TEST(PlannerTest, AJobThatDoesNotFitIsRefusedWithByteCounts) {
  const Manifest manifest = Job();
  const std::vector<DeviceSpec> devices = GpuDevices(2, 1 << 20);
  const absl::Status status = MakePlan({&manifest, {}, devices, nullptr, 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("job 'job': an item needs"));
}

TEST(PlannerTest, WhatTheJobHoldsAlreadyIsRoomForIt) {
  const Manifest manifest = Job();
  std::vector<DeviceSpec> devices = GpuDevices(2, 8 << 20);
  const Planned first = *MakePlan({&manifest, {}, devices, nullptr, 1});
  for (DeviceSpec& device : devices)
    device.memory_free_bytes = 1 << 20;  // the job itself took the rest
  const absl::StatusOr<Planned> second = MakePlan({&manifest, {}, devices, &first.plan, 2});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->kept, static_cast<int64_t>(first.plan.items.size()));
}

TEST(PlannerTest, AnUnknownTableIsRefusedNamingTheGroup) {
  Manifest manifest = Job();
  manifest.groups[0].table = "no such table";
  const std::vector<DeviceSpec> devices = GpuDevices(1);
  const absl::Status status = MakePlan({&manifest, {}, devices, nullptr, 1}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("group 0 'muon'"));
}

}  // namespace
}  // namespace muond
