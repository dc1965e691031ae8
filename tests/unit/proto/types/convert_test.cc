#include "proto/types/convert.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "muond/v1/coordinator.pb.h"
#include "muond/v1/daemon.pb.h"
#include "proto/types/limits.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::RowSharded;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

Manifest Job() {
  Manifest manifest = EmptyManifest(3);
  manifest.groups[0].table = "custom";
  manifest.groups[0].custom_steps = {{1, 2, 3}, {4, 5, 6}};
  manifest.tensors = {Tensor("w", {8, 6}), Tensor("e", {3, 4, 5}, Rule::kMuon, 2),
                      Tensor("b", {8}, Rule::kAdamW)};
  manifest.tensors[1].matrix_rows = {4, 8};
  manifest.tensors[0].gradient_type = DType::kBFloat16;
  return manifest;
}

TEST(ConvertTest, AManifestComesBackEqual) {
  const Manifest manifest = Job();
  const absl::StatusOr<Manifest> back = ParseManifest(Serialize(manifest));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(FirstDifference(manifest, *back), "");
  EXPECT_EQ(DigestOf(manifest), DigestOf(*back));
}

TEST(ConvertTest, ACreateJobCallComesBackWithItsShards) {
  CreateJobCall call{"d1", Job(), RowSharded(Job()), true, 42};
  call.ranks[1].shards[0].replica_kind = ReplicaKind::kSum;
  for (RankManifest& rank : call.ranks) {
    rank.shards[0].replica_kind = ReplicaKind::kSum;
    rank.shards[0].divisor = 3;
  }
  v1::CreateJobRequest message;
  ToProto(call, &message);
  const absl::StatusOr<CreateJobCall> back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->job, 42u);
  EXPECT_TRUE(back->adopt);
  ASSERT_EQ(back->ranks.size(), 3u);
  EXPECT_EQ(back->ranks[2].shards[0].offset, call.ranks[2].shards[0].offset);
  EXPECT_EQ(back->ranks[2].shards[0].divisor, 3);
}

TEST(ConvertTest, APlanComesBackEqual) {
  Plan plan;
  plan.epoch = 7;
  plan.devices.resize(2);
  plan.devices[1] = {"d1", 1, "GPU-1", "H200", "sm_90a", 100, 50};
  plan.items = {{Rule::kMuon, 1, {{0, 0, 8}}, 0.25},
                {Rule::kAdamW, 0, {{1, 0, 3}, {2, 1, 2}}, 0.5}};
  plan.device_cost_seconds = {0.5, 0.25};
  plan.imbalance = 1.5;
  plan.reason = "because";
  const absl::StatusOr<Plan> back = ParsePlan(Serialize(plan));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->epoch, 7u);
  EXPECT_EQ(back->devices[1].uuid, "GPU-1");
  EXPECT_EQ(back->items[1].segments, plan.items[1].segments);
  EXPECT_EQ(back->items[0].owner, 1);
  EXPECT_EQ(back->reason, "because");
}

TEST(ConvertTest, BadMessagesAreRefusedNotClamped) {
  v1::JobManifest message;
  ToProto(Job(), &message);
  message.mutable_tensors(0)->set_parameter_type(
      static_cast<v1::ElementType>(257));  // 1, were it cut to a byte
  EXPECT_THAT(std::string(FromProto(message).status().message()),
              HasSubstr("unknown element type 0"));
  ToProto(Job(), &message);
  for (int i = 0; i < 9; ++i) message.mutable_tensors(0)->add_shape(1);
  EXPECT_THAT(std::string(FromProto(message).status().message()),
              HasSubstr("dimensions: 11, the limit is 8"));
  EXPECT_EQ(ParseManifest("\xff\xff\xff").status().code(), absl::StatusCode::kDataLoss);

  v1::StateChunk chunk;
  chunk.set_field(v1::STATE_FIELD_MOMENTUM);
  chunk.set_data(std::string(kStateChunkBytesMax + 1, 'x'));
  EXPECT_THAT(std::string(FromProto(chunk).status().message()),
              HasSubstr("1048577, the limit is 1048576"));
  chunk.set_field(v1::STATE_FIELD_UNSPECIFIED);
  EXPECT_THAT(std::string(FromProto(chunk).status().message()), HasSubstr("unknown state field 0"));

  v1::JoinRequest join;
  ToProto(Job(), join.mutable_manifest());
  join.mutable_rank()->set_rank(3);
  EXPECT_THAT(std::string(FromProto(join).status().message()), HasSubstr("rank 3 of a world of 3"));
}

TEST(ConvertTest, AJoinComesBackEqualAndAnOlderClientsHasNoSeat) {
  JoinCall call;
  call.manifest = Job();
  call.rank.rank = 1;
  call.seat = 0xfedcba9876543210;
  call.attempt = 3;
  call.wait_ms = 250;
  v1::JoinRequest message;
  ToProto(call, &message);
  auto back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->seat, 0xfedcba9876543210);
  EXPECT_EQ(back->attempt, 3u);
  EXPECT_EQ(back->wait_ms, 250u);
  message.clear_seat();
  message.clear_attempt();
  message.clear_wait_ms();
  back = FromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->seat + back->attempt + back->wait_ms, 0u);
}

TEST(ConvertTest, AStatusComesBackEqual) {
  DaemonStatus status;
  status.keeper_pid = 11;
  status.stepper_pid = 12;
  status.endpoint = "unix:/tmp/x";
  status.devices.resize(1);
  status.devices[0].items = 3;
  status.jobs.resize(1);
  status.jobs[0].name = "job";
  status.jobs[0].step = 200;
  status.jobs[0].ranks = {{0, 77, "attached"}};
  status.jobs[0].phases = {{"gather", 0.5, 0.25}};
  v1::GetStatusResponse message;
  ToProto(status, &message);
  const absl::StatusOr<DaemonStatus> back = FromProto(message);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->stepper_pid, 12);
  EXPECT_EQ(back->jobs[0].step, 200u);
  EXPECT_EQ(back->jobs[0].ranks[0].state, "attached");
  EXPECT_EQ(back->jobs[0].phases[0].phase, "gather");
}

}  // namespace
}  // namespace muond
