#include "proto/carrier/put_window.h"

#include <gtest/gtest.h>

#include "proto/carrier/admissions.h"
#include "proto/carrier/liveness.h"

namespace muond {
namespace {

PutRequest Sized(uint64_t size_bytes, uint64_t token) {
  return {1, 1, 0, &kFrameMagic, size_bytes, token};
}

TEST(PutWindowTest, PutsFlyInOrderWhileTheyFit) {
  PutWindow window({.bytes_in_flight_max = 100, .puts_in_flight_max = 10, .puts_queued_max = 10});
  ASSERT_TRUE(window.Add(Sized(60, 1)).ok());
  ASSERT_TRUE(window.Add(Sized(60, 2)).ok());
  ASSERT_TRUE(window.Add(Sized(10, 3)).ok());
  EXPECT_EQ(window.Next()->token, 1u);
  EXPECT_FALSE(window.Next().has_value());  // the third would fit, but does not overtake
  window.Ended(60);
  EXPECT_EQ(window.Next()->token, 2u);
  EXPECT_EQ(window.Next()->token, 3u);
  EXPECT_EQ(window.bytes_in_flight(), 70u);
}

TEST(PutWindowTest, APutLargerThanTheWindowFliesAlone) {
  PutWindow window({.bytes_in_flight_max = 100, .puts_in_flight_max = 10, .puts_queued_max = 10});
  ASSERT_TRUE(window.Add(Sized(UINT64_MAX, 1)).ok());
  ASSERT_TRUE(window.Add(Sized(1, 2)).ok());
  EXPECT_EQ(window.Next()->token, 1u);
  EXPECT_FALSE(window.Next().has_value());
  window.Ended(UINT64_MAX);
  EXPECT_EQ(window.Next()->token, 2u);
}

TEST(PutWindowTest, TheQueueHasAnEndWithItsNumbers) {
  PutWindow window({.bytes_in_flight_max = 100, .puts_in_flight_max = 1, .puts_queued_max = 2});
  ASSERT_TRUE(window.Add(Sized(1, 1)).ok());
  ASSERT_TRUE(window.Next().has_value());
  ASSERT_TRUE(window.Add(Sized(1, 2)).ok());
  ASSERT_TRUE(window.Add(Sized(1, 3)).ok());
  EXPECT_EQ(window.Add(Sized(1, 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(window.TakeWaiting()->token, 2u);
  EXPECT_EQ(window.TakeWaiting()->token, 3u);
  EXPECT_FALSE(window.TakeWaiting().has_value());
}

TEST(AdmissionsTest, KeysHaveALimitAndWorkOnce) {
  Admissions admissions;
  for (size_t i = 0; i < kAdmissionsMax; ++i)
    ASSERT_TRUE(admissions.Add(*NewAdmissionKey(), i).ok());
  const AdmissionKey key = *NewAdmissionKey();
  EXPECT_EQ(admissions.Add(key, 1).code(), absl::StatusCode::kResourceExhausted);
  Admissions small;
  ASSERT_TRUE(small.Add(key, 8).ok());
  AdmissionKey near = key;
  near.back() ^= std::byte{1};
  EXPECT_FALSE(small.Take(near).has_value());
  EXPECT_EQ(small.Take(key), 8u);
  EXPECT_FALSE(small.Take(key).has_value());
}

TEST(LivenessTest, SilenceIsMeasuredWithoutOurOwnSleep) {
  Liveness peer({.heartbeat_ns = 10, .silence_ns_max = 50}, 1000);
  EXPECT_FALSE(peer.MustSend(1009));
  EXPECT_TRUE(peer.MustSend(1010));
  EXPECT_FALSE(peer.Silent(1050));
  EXPECT_TRUE(peer.Silent(1051));
  peer.Overslept(40);
  EXPECT_FALSE(peer.Silent(1090));
  EXPECT_EQ(peer.silent_ns(1090), 50);
  peer.Heard(1090);
  peer.Sent(1085);
  EXPECT_FALSE(peer.Silent(1140));
  EXPECT_FALSE(peer.MustSend(1094));
  EXPECT_FALSE(CheckLiveness({.heartbeat_ns = 26, .silence_ns_max = 50}).ok());
  EXPECT_TRUE(CheckLiveness({.heartbeat_ns = 25, .silence_ns_max = 50}).ok());
}

}  // namespace
}  // namespace muond
