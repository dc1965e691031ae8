// The contract of proto/carrier/carrier.h as one suite: every carrier instantiates it with its own
// way to make a pair.
//
//   struct MyPair { static absl::StatusOr<std::unique_ptr<CarrierPair>> Create(); };
//   INSTANTIATE_TYPED_TEST_SUITE_P(My, CarrierContract, MyPair);
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "proto/carrier/carrier.h"
#include "tests/support/carrier_events.h"

namespace muond {

// A listening carrier and a way to connect to it.
class CarrierPair {
 public:
  struct Connection {
    std::unique_ptr<Carrier> carrier;
    PeerId peer = kNoPeer;
  };
  virtual ~CarrierPair() = default;
  virtual bool knows_credentials() const { return true; }
  virtual Carrier& listener() = 0;
  virtual absl::StatusOr<Connection> Connect() = 0;
};

template <typename Pair>
class CarrierContract : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = Pair::Create();
    ASSERT_TRUE(pair.ok()) << pair.status();
    pair_ = *std::move(pair);
  }
  CarrierPair::Connection ConnectOne() {
    auto connection = pair_->Connect();
    EXPECT_TRUE(connection.ok()) << connection.status();
    return *std::move(connection);
  }
  PeerId AcceptOne() {
    const auto events = TakeEvents(pair_->listener(), 1);
    EXPECT_EQ(events.size(), 1u);
    EXPECT_EQ(events.at(0).kind, CarrierEventKind::kPeerUp);
    return events.at(0).peer;
  }
  std::unique_ptr<CarrierPair> pair_;
};
TYPED_TEST_SUITE_P(CarrierContract);

TYPED_TEST_P(CarrierContract, FramesArriveInOrderAndWholeBothWays) {
  auto client = this->ConnectOne();
  const PeerId at_listener = this->AcceptOne();
  for (uint64_t i = 1; i <= 20; ++i) {
    ASSERT_TRUE(client.carrier->Send(client.peer, PingFrame(i)).ok());
    ASSERT_TRUE(this->pair_->listener().Send(at_listener, PingFrame(100 + i)).ok());
  }
  const auto up = TakeEvents(this->pair_->listener(), 20);
  const auto down = TakeEvents(*client.carrier, 20);
  ASSERT_EQ(up.size(), 20u);
  ASSERT_EQ(down.size(), 20u);
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(up[i].kind, CarrierEventKind::kFrame);
    EXPECT_EQ(up[i].peer, at_listener);
    EXPECT_EQ(up[i].frame.value, i + 1);
    EXPECT_EQ(up[i].frame.session, 9u);
    EXPECT_EQ(down[i].frame.value, 101 + i);
  }
}

TYPED_TEST_P(CarrierContract, PeerUpTellsWhoConnected) {
  auto client = this->ConnectOne();
  const auto events = TakeEvents(this->pair_->listener(), 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerUp);
  const bool known = this->pair_->knows_credentials();
  EXPECT_EQ(events[0].credentials.pid, known ? ::getpid() : 0);
  EXPECT_EQ(events[0].credentials.uid, known ? ::geteuid() : 0);
}

TYPED_TEST_P(CarrierContract, IdleCarrierIsNotReadable) {
  auto client = this->ConnectOne();
  this->AcceptOne();
  EXPECT_TRUE(GoesQuiet(this->pair_->listener()));
  EXPECT_TRUE(GoesQuiet(*client.carrier));
}

TYPED_TEST_P(CarrierContract, WhatAPeerSentBeforeItWentIsDeliveredThenItIsGoneOnce) {
  auto client = this->ConnectOne();
  const PeerId at_listener = this->AcceptOne();
  for (uint64_t i = 1; i <= 5; ++i)
    ASSERT_TRUE(client.carrier->Send(client.peer, PingFrame(i)).ok());
  // Unread frames towards the peer turn its end into a reset on Unix sockets: nothing may be lost
  // by that.
  ASSERT_TRUE(this->pair_->listener().Send(at_listener, PingFrame(1)).ok());
  client.carrier.reset();
  const auto events = TakeEvents(this->pair_->listener(), 6);
  ASSERT_EQ(events.size(), 6u);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(events[i].kind, CarrierEventKind::kFrame) << i;
  EXPECT_EQ(events[5].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(events[5].peer, at_listener);
  EXPECT_FALSE(events[5].status.ok());
  EXPECT_TRUE(Drain(this->pair_->listener()).empty());
  EXPECT_EQ(this->pair_->listener().Send(at_listener, PingFrame(1)).code(),
            absl::StatusCode::kNotFound);
}

TYPED_TEST_P(CarrierContract, ClosingAPeerTellsTheOtherEndAndNotThisOne) {
  auto client = this->ConnectOne();
  const PeerId at_listener = this->AcceptOne();
  this->pair_->listener().Close(at_listener);
  this->pair_->listener().Close(at_listener);  // unknown by now: ignored
  const auto events = TakeEvents(*client.carrier, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerGone);
  EXPECT_TRUE(Drain(this->pair_->listener()).empty());
}

TYPED_TEST_P(CarrierContract, PeerIdsAreNeverUsedAgain) {
  PeerId last = kNoPeer;
  for (int i = 0; i < 5; ++i) {
    auto client = this->ConnectOne();
    const PeerId id = this->AcceptOne();
    EXPECT_GT(id, last);
    last = id;
    client.carrier.reset();
    EXPECT_EQ(TakeEvents(this->pair_->listener(), 1).size(), 1u);
  }
}

TYPED_TEST_P(CarrierContract, AReaderThatSleepsLosesOldDoorbellsNeverTheNewest) {
  auto client = this->ConnectOne();
  const PeerId at_listener = this->AcceptOne();
  constexpr uint64_t kSent = 5000;
  for (uint64_t i = 1; i <= kSent; ++i) {
    ASSERT_TRUE(client.carrier->Send(client.peer, PingFrame(i)).ok()) << i;
  }
  std::vector<uint64_t> got;
  for (int round = 0; round < 1000 && (got.empty() || got.back() != kSent); ++round) {
    for (const CarrierEvent& event : Drain(this->pair_->listener())) {
      ASSERT_EQ(event.kind, CarrierEventKind::kFrame);
      ASSERT_EQ(event.peer, at_listener);
      if (!got.empty()) {
        ASSERT_GT(event.frame.value, got.back());
      }
      got.push_back(event.frame.value);
    }
    std::vector<CarrierEvent> none;
    client.carrier->Poll(&none);  // sends what waited for room
    ASSERT_TRUE(none.empty());
  }
  ASSERT_FALSE(got.empty());
  EXPECT_EQ(got.back(), kSent);
  EXPECT_EQ(got.size() + client.carrier->frames_dropped(), kSent);
  EXPECT_GT(client.carrier->frames_dropped(), 0u);
  EXPECT_GE(got.size(), kFramesQueuedMax);
}

TYPED_TEST_P(CarrierContract, ASleepingPeerDoesNotHoldUpAnother) {
  auto sleeper = this->ConnectOne();
  const PeerId sleeping = this->AcceptOne();
  auto reader = this->ConnectOne();
  const PeerId reading = this->AcceptOne();
  for (uint64_t i = 1; i <= 2000; ++i)
    ASSERT_TRUE(this->pair_->listener().Send(sleeping, PingFrame(i)).ok());
  ASSERT_TRUE(this->pair_->listener().Send(reading, PingFrame(42)).ok());
  const auto events = TakeEvents(*reader.carrier, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].frame.value, 42u);
}

TYPED_TEST_P(CarrierContract, ManyPeersAreToldApart) {
  std::vector<CarrierPair::Connection> clients;
  for (int i = 0; i < 64; ++i) clients.push_back(this->ConnectOne());
  const auto ups = TakeEvents(this->pair_->listener(), 64);
  ASSERT_EQ(ups.size(), 64u);
  for (uint64_t i = 0; i < 64; ++i) {
    ASSERT_TRUE(this->pair_->listener().Send(ups[i].peer, PingFrame(ups[i].peer)).ok());
  }
  std::vector<uint64_t> seen;
  for (auto& client : clients) {
    const auto events = TakeEvents(*client.carrier, 1);
    ASSERT_EQ(events.size(), 1u);
    seen.push_back(events[0].frame.value);
  }
  std::vector<uint64_t> expected;
  for (const auto& up : ups) expected.push_back(up.peer);
  EXPECT_THAT(seen, ::testing::UnorderedElementsAreArray(expected));
}

REGISTER_TYPED_TEST_SUITE_P(CarrierContract, FramesArriveInOrderAndWholeBothWays,
                            PeerUpTellsWhoConnected, IdleCarrierIsNotReadable,
                            WhatAPeerSentBeforeItWentIsDeliveredThenItIsGoneOnce,
                            ClosingAPeerTellsTheOtherEndAndNotThisOne, PeerIdsAreNeverUsedAgain,
                            AReaderThatSleepsLosesOldDoorbellsNeverTheNewest,
                            ASleepingPeerDoesNotHoldUpAnother, ManyPeersAreToldApart);

}  // namespace muond
