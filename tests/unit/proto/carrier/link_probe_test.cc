#include "proto/carrier/link_probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/carrier/loopback/loopback_shard_carrier.h"
#include "tests/support/carrier_events.h"

namespace muond {
namespace {

constexpr int64_t kDelayNs = 1'000'000;

TEST(LinkProbeTest, FindsTheDelayAndTheBandwidthOfANet) {
  auto net = LoopbackNet::Create({.delay_ns = kDelayNs});
  auto theirs = *CreateLoopbackShards(net);
  auto ours = *CreateLoopbackShards(net);
  const AdmissionKey key = *NewAdmissionKey();
  ASSERT_TRUE(theirs->Admit(key, 0).ok());
  const PeerId peer = *ours->Connect(theirs->address(), key);
  std::vector<uint8_t> scratch(1 << 20);
  const auto region =
      ours->ImportRegion(peer, theirs->Register(scratch.data(), scratch.size())->key);
  ASSERT_TRUE(region.ok());
  int64_t now_ns = kDelayNs;
  net->AdvanceTo(now_ns);
  auto probe =
      LinkProbe::Start(ours.get(), {peer, *region, scratch.size(), 9, 100 * kDelayNs}, now_ns);
  ASSERT_TRUE(probe.ok()) << probe.status();
  std::optional<LinkFigures> figures;
  for (int turn = 0; turn < 1000 && !figures.has_value(); ++turn) {
    net->AdvanceTo(now_ns += kDelayNs);
    for (const CarrierEvent& event : Drain(*ours)) {
      auto result = probe->On(event, now_ns);
      ASSERT_TRUE(result.ok()) << result.status();
      if (result->has_value()) figures = *result;
    }
  }
  ASSERT_TRUE(figures.has_value());
  EXPECT_DOUBLE_EQ(figures->put_seconds, 1e-3);
  // Four megabytes a millisecond, a little less for the way in and out.
  EXPECT_NEAR(figures->bytes_per_second, 4.0 * (1 << 20) * 1000, 0.05 * 4.0 * (1 << 20) * 1000);
  EXPECT_EQ(ours->puts_pending(), 0u);
}

TEST(LinkProbeTest, APeerThatDiesEndsTheProbeWithItsError) {
  auto net = LoopbackNet::Create({.delay_ns = kDelayNs});
  auto theirs = *CreateLoopbackShards(net);
  auto ours = *CreateLoopbackShards(net);
  const AdmissionKey key = *NewAdmissionKey();
  ASSERT_TRUE(theirs->Admit(key, 0).ok());
  const PeerId peer = *ours->Connect(theirs->address(), key);
  std::vector<uint8_t> scratch(4096);
  const auto region =
      ours->ImportRegion(peer, theirs->Register(scratch.data(), scratch.size())->key);
  net->AdvanceTo(kDelayNs);
  auto probe = LinkProbe::Start(ours.get(), {peer, *region, scratch.size(), 9, kDelayNs}, kDelayNs);
  ASSERT_TRUE(probe.ok());
  theirs.reset();
  net->AdvanceTo(3 * kDelayNs);
  const auto events = Drain(*ours);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(probe->On(events[0], 3 * kDelayNs).status().code(), absl::StatusCode::kUnavailable);
}

TEST(JudgeLinkTest, ATenthOfItsKindIsSlowAndSaysSo) {
  const std::vector<LinkFigures> kind{{9e9, 20e-6}, {10e9, 25e-6}, {12e9, 30e-6}};
  EXPECT_FALSE(JudgeLink({1.1e9, 30e-6}, kind).slow);
  EXPECT_FALSE(JudgeLink({10e9, 240e-6}, kind).slow);
  EXPECT_TRUE(JudgeLink({10e9, 260e-6}, kind).slow);
  const LinkVerdict slow = JudgeLink({0.3e9, 30e-6}, kind);
  EXPECT_TRUE(slow.slow);
  EXPECT_THAT(slow.reason,
              ::testing::AllOf(::testing::HasSubstr("300 MB/s"), ::testing::HasSubstr("1e+04 MB/s"),
                               ::testing::HasSubstr("3 links")));
  EXPECT_FALSE(JudgeLink({1, 1}, {}).slow);
}

}  // namespace
}  // namespace muond
