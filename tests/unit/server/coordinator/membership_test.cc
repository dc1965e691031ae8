#include "server/coordinator/membership.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::ElementsAre;

RegisterCall Call(uint64_t memory_bytes = 100) {
  RegisterCall call;
  call.endpoint = "unix:/d";
  call.devices.resize(1);
  call.devices[0].memory_bytes = call.devices[0].memory_free_bytes = memory_bytes;
  return call;
}
const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(MembershipTest, ADaemonIsGoneWhenItWasSilentForItsLease) {
  Membership members(absl::Seconds(10));
  members.Enter("a", Call(), kStart);
  members.Enter("b", Call(), kStart);
  EXPECT_TRUE(members.Heartbeat({"a", {}, false}, kStart + absl::Seconds(8)).ok());
  EXPECT_THAT(members.Expire(kStart + absl::Seconds(10)), ElementsAre());
  EXPECT_THAT(members.Expire(kStart + absl::Seconds(11)), ElementsAre("b"));
  EXPECT_EQ(members.Heartbeat({"b", {}, false}, kStart + absl::Seconds(11)).code(),
            absl::StatusCode::kNotFound);
  EXPECT_NE(members.Find("a"), nullptr);
}

TEST(MembershipTest, ALateHeartbeatIsRefusedEvenBeforeTheLeaseIsCollected) {
  Membership members(absl::Seconds(10));
  members.Enter("a", Call(), kStart);
  EXPECT_EQ(members.Heartbeat({"a", {}, false}, kStart + absl::Seconds(11)).code(),
            absl::StatusCode::kNotFound);
}

TEST(MembershipTest, OnlyOtherDevicesCountAsAChange) {
  Membership members(absl::Seconds(10));
  EXPECT_TRUE(members.Enter("a", Call(), kStart));
  RegisterCall again = Call();
  again.devices[0].memory_free_bytes = 7;
  EXPECT_FALSE(members.Enter("a", again, kStart));
  EXPECT_TRUE(members.Enter("a", Call(200), kStart));
  EXPECT_EQ(members.Find("a")->devices[0].daemon, "a");
}

TEST(MembershipTest, HeartbeatsCarryFreeBytesAndDraining) {
  Membership members(absl::Seconds(10));
  members.Enter("a", Call(), kStart);
  HeartbeatCall beat{"a", Call().devices, true};
  beat.devices[0].memory_free_bytes = 40;
  ASSERT_TRUE(members.Heartbeat(beat, kStart + absl::Seconds(2)).ok());
  const DaemonEntry entry = members.Entries(kStart + absl::Seconds(5))[0];
  EXPECT_EQ(entry.devices[0].memory_free_bytes, 40u);
  EXPECT_TRUE(entry.draining);
  EXPECT_EQ(entry.heartbeat_age_ms, 3000u);
}

}  // namespace
}  // namespace muond
