// The contract of proto/carrier/shard_carrier.h as one suite: every shard carrier instantiates it with its own way to
// make ends that can reach each other.
//
//   struct MyNet { static absl::StatusOr<std::unique_ptr<ShardNet>> Create(); };
//   INSTANTIATE_TYPED_TEST_SUITE_P(My, ShardContract, MyNet);
//
// A put must not be done before Progress() was called or its receiver polled: the tests of back-pressure rest on that.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "proto/carrier/shard_carrier.h"
#include "tests/support/carrier_events.h"

namespace muond {

class ShardNet {
 public:
  virtual ~ShardNet() = default;
  virtual absl::StatusOr<std::unique_ptr<ShardCarrier>> NewEnd(const ShardLimits& limits) = 0;
  virtual void Progress() {}  // time goes on
};

// Ends of one net that are polled together, with what came to each.
class ShardEnds {
 public:
  void Add(ShardCarrier* end) { events_[end]; }
  void Remove(ShardCarrier* end) { events_.erase(end); }
  // Polls every end until `done(events of end)`; false when nothing happened for five seconds.
  template <typename Done>
  bool Await(ShardNet& net, ShardCarrier* end, Done done) {
    for (int idle = 0; !done(events_[end]);) {
      idle = PollOnce(net) ? 0 : idle + 1;
      if (idle > 500) return false;
    }
    return true;
  }
  // True when there was something to do within ten milliseconds.
  bool PollOnce(ShardNet& net) {
    net.Progress();
    std::vector<pollfd> entries;
    for (const auto& [carrier, events] : events_)
      entries.push_back({carrier->event_descriptor(), POLLIN, 0});
    const bool readable = ::poll(entries.data(), entries.size(), 10) > 0;
    for (auto& [carrier, events] : events_) carrier->Poll(&events);
    return readable;
  }
  std::vector<CarrierEvent> Take(ShardCarrier* end) { return std::exchange(events_[end], {}); }

 private:
  std::map<ShardCarrier*, std::vector<CarrierEvent>> events_;
};

template <typename Net>
class ShardContract : public ::testing::Test {
 protected:
  struct Joined {
    std::unique_ptr<ShardCarrier> end;
    PeerId listener = kNoPeer;     // as `end` calls it
    PeerId at_listener = kNoPeer;  // as the listener calls `end`
  };

  void SetUp() override {
    auto net = Net::Create();
    ASSERT_TRUE(net.ok()) << net.status();
    net_ = *std::move(net);
    listener_ = NewEnd();
  }
  std::unique_ptr<ShardCarrier> NewEnd(const ShardLimits& limits = {}) {
    auto end = net_->NewEnd(limits);
    EXPECT_TRUE(end.ok()) << end.status();
    ends_.Add(end->get());
    return *std::move(end);
  }
  // As a process of its own would end: the others go on.
  void Destroy(std::unique_ptr<ShardCarrier>* end) {
    ends_.Remove(end->get());
    std::atomic<bool> ended = false;
    std::thread ending([&] {
      end->reset();
      ended = true;
    });
    while (!ended) ends_.PollOnce(*net_);
    ending.join();
  }
  std::vector<CarrierEvent> Take(ShardCarrier& end, size_t count) {
    EXPECT_TRUE(ends_.Await(*net_, &end, [&](const auto& e) { return e.size() >= count; }));
    return ends_.Take(&end);
  }
  Joined Join(const ShardLimits& limits = {}) {
    Joined joined{NewEnd(limits), kNoPeer, kNoPeer};
    const AdmissionKey key = *NewAdmissionKey();
    EXPECT_TRUE(listener_->Admit(key, 5).ok());
    auto peer = joined.end->Connect(listener_->address(), key);
    EXPECT_TRUE(peer.ok()) << peer.status();
    joined.listener = *peer;
    const auto events = Take(*listener_, 1);
    if (events.size() != 1 || events[0].kind != CarrierEventKind::kPeerUp) {
      ADD_FAILURE() << "no kPeerUp alone at the listener: " << events.size() << " events";
      return joined;
    }
    joined.at_listener = events[0].peer;
    // A frame back: from then on `end` knows that it was let in, and nothing waits for that any more.
    EXPECT_TRUE(listener_->Send(joined.at_listener, PingFrame(1)).ok());
    EXPECT_EQ(Take(*joined.end, 1).size(), 1u);
    return joined;
  }
  // A region of `owner` over `memory`, imported by `user`.
  RemoteRegionId Share(ShardCarrier& owner, std::vector<uint8_t>& memory, ShardCarrier& user,
                       PeerId owner_at_user) {
    auto region = owner.Register(memory.data(), memory.size());
    EXPECT_TRUE(region.ok()) << region.status();
    EXPECT_LE(region->key.size(), kRegionKeyBytesMax);
    auto remote = user.ImportRegion(owner_at_user, region->key);
    EXPECT_TRUE(remote.ok()) << remote.status();
    return *remote;
  }
  static std::vector<uint8_t> Pattern(size_t size, uint8_t seed) {
    std::vector<uint8_t> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<uint8_t>(seed + i * 7 + (i >> 8));
    return bytes;
  }

  std::unique_ptr<ShardNet> net_;
  ShardEnds ends_;
  std::unique_ptr<ShardCarrier> listener_;
};
TYPED_TEST_SUITE_P(ShardContract);

TYPED_TEST_P(ShardContract, AnAdmittedConnectionIsUpWithItsTagAndTheKeyWorksOnce) {
  const AdmissionKey key = *NewAdmissionKey();
  ASSERT_TRUE(this->listener_->Admit(key, 77).ok());
  EXPECT_EQ(this->listener_->Admit(key, 78).code(), absl::StatusCode::kAlreadyExists);
  auto first = this->NewEnd();
  ASSERT_TRUE(first->Connect(this->listener_->address(), key).ok());
  const auto up = this->Take(*this->listener_, 1);
  ASSERT_EQ(up.size(), 1u);
  EXPECT_EQ(up[0].kind, CarrierEventKind::kPeerUp);
  EXPECT_EQ(up[0].token, 77u);

  auto second = this->NewEnd();
  const auto peer = second->Connect(this->listener_->address(), key);
  ASSERT_TRUE(peer.ok());
  const auto gone = this->Take(*second, 1);
  ASSERT_EQ(gone.size(), 1u);
  EXPECT_EQ(gone[0].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(gone[0].peer, *peer);
  EXPECT_FALSE(gone[0].status.ok());
  EXPECT_TRUE(this->ends_.Take(this->listener_.get()).empty());
  this->Destroy(&first);
  this->Destroy(&second);
}

TYPED_TEST_P(ShardContract, AWithdrawnOrUnknownKeyOpensNothing) {
  const AdmissionKey withdrawn = *NewAdmissionKey();
  ASSERT_TRUE(this->listener_->Admit(withdrawn, 1).ok());
  this->listener_->Withdraw(withdrawn);
  for (const AdmissionKey& key : {withdrawn, AdmissionKey{}}) {
    auto end = this->NewEnd();
    ASSERT_TRUE(end->Connect(this->listener_->address(), key).ok());
    const auto events = this->Take(*end, 1);
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerGone);
    this->Destroy(&end);
  }
  EXPECT_TRUE(this->ends_.Take(this->listener_.get()).empty());
}

TYPED_TEST_P(ShardContract, ConnectingToNobodyFailsItsPutsAndThenThePeerIsGone) {
  auto vanished = this->NewEnd();
  const std::string address = vanished->address();
  this->Destroy(&vanished);
  auto end = this->NewEnd();
  const auto peer = end->Connect(address, *NewAdmissionKey());
  ASSERT_TRUE(peer.ok()) << peer.status();
  const auto events = this->Take(*end, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(events[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(end->Send(*peer, PingFrame(1)).code(), absl::StatusCode::kNotFound);
  this->Destroy(&end);
}

TYPED_TEST_P(ShardContract, WhatIsNoAddressIsRefusedAtOnce) {
  for (const char* address :
       {"", "nowhere", "host:", "127.0.0.1:0", "127.0.0.1:65536", "::1", "loopback:x"}) {
    EXPECT_EQ(this->listener_->Connect(address, AdmissionKey{}).status().code(),
              absl::StatusCode::kInvalidArgument)
        << address;
  }
}

TYPED_TEST_P(ShardContract, FramesSentBeforeTheOtherEndLetUsInArriveAfterIt) {
  const AdmissionKey key = *NewAdmissionKey();
  ASSERT_TRUE(this->listener_->Admit(key, 1).ok());
  auto end = this->NewEnd();
  const auto peer = end->Connect(this->listener_->address(), key);
  ASSERT_TRUE(peer.ok());
  for (uint64_t i = 1; i <= 10; ++i) ASSERT_TRUE(end->Send(*peer, PingFrame(i)).ok());
  const auto events = this->Take(*this->listener_, 11);
  ASSERT_EQ(events.size(), 11u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerUp);
  for (uint64_t i = 1; i <= 10; ++i) {
    EXPECT_EQ(events[i].kind, CarrierEventKind::kFrame);
    EXPECT_EQ(events[i].frame.value, i);
  }
  this->Destroy(&end);
}

TYPED_TEST_P(ShardContract, PutsOfEverySizeLandWholeAndOnlyWhereTheyShould) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(9 << 20, 0);
  std::vector<uint8_t> expected = memory;
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  uint64_t token = 100;
  size_t offset = 3;
  for (const size_t size : {size_t{1}, size_t{7}, size_t{64}, size_t{4096}, size_t{8191},
                            size_t{65537}, size_t{1} << 20, (size_t{4} << 20) + 13}) {
    const auto bytes = this->Pattern(size, static_cast<uint8_t>(token));
    ASSERT_TRUE(
        joined.end->Put({joined.listener, region, offset, bytes.data(), size, ++token}).ok());
    const auto events = this->Take(*joined.end, 1);
    ASSERT_EQ(events.size(), 1u) << size;
    EXPECT_EQ(events[0].kind, CarrierEventKind::kPutDone);
    EXPECT_EQ(events[0].token, token);
    EXPECT_EQ(events[0].peer, joined.listener);
    EXPECT_TRUE(events[0].status.ok()) << events[0].status;
    std::copy(bytes.begin(), bytes.end(), expected.begin() + static_cast<ptrdiff_t>(offset));
    ASSERT_TRUE(memory == expected) << "after a put of " << size << " at " << offset;
    offset += size + 5;
  }
  EXPECT_EQ(joined.end->puts_pending(), 0u);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, TheListenerPutsIntoThePeersRegionToo) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(100'000, 0);
  const RemoteRegionId region =
      this->Share(*joined.end, memory, *this->listener_, joined.at_listener);
  const auto bytes = this->Pattern(memory.size(), 3);
  ASSERT_TRUE(
      this->listener_->Put({joined.at_listener, region, 0, bytes.data(), bytes.size(), 9}).ok());
  const auto events = this->Take(*this->listener_, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_TRUE(events[0].status.ok()) << events[0].status;
  EXPECT_TRUE(memory == bytes);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, APutBeyondTheRegionIsRefusedWithTheNumbers) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(1000, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  const uint8_t byte = 1;
  struct Case {
    uint64_t offset, size;
  };
  for (const Case& c : {Case{1000, 1}, Case{999, 2}, Case{0, 1001}, Case{UINT64_MAX, 2},
                        Case{2, UINT64_MAX}, Case{UINT64_MAX, UINT64_MAX}}) {
    const auto status = joined.end->Put({joined.listener, region, c.offset, &byte, c.size, 1});
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << c.offset << " " << c.size;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("1000"));
  }
  EXPECT_EQ(joined.end->Put({joined.listener, region, 0, &byte, 0, 1}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(joined.end->Put({joined.listener, region, 0, nullptr, 1, 1}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(joined.end->puts_pending(), 0u);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, ARegionIsOfOnePeerAndEndsWhenReleased) {
  auto joined = this->Join();
  auto other = this->Join();
  std::vector<uint8_t> memory(64, 0);
  const auto key = this->listener_->Register(memory.data(), memory.size());
  ASSERT_TRUE(key.ok());
  const auto region = joined.end->ImportRegion(joined.listener, key->key);
  ASSERT_TRUE(region.ok());
  const uint8_t byte = 1;
  EXPECT_EQ(joined.end->Put({joined.listener + 1000, *region, 0, &byte, 1, 1}).code(),
            absl::StatusCode::kNotFound);
  joined.end->ReleaseRegion(*region);
  EXPECT_EQ(joined.end->Put({joined.listener, *region, 0, &byte, 1, 1}).code(),
            absl::StatusCode::kNotFound);
  // A key of the listener, used towards a peer that is not the listener.
  EXPECT_EQ(this->listener_->ImportRegion(other.at_listener, key->key).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(this->listener_->ImportRegion(9999, key->key).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(this->listener_->Unregister(key->id).ok());
  EXPECT_EQ(this->listener_->Unregister(key->id).code(), absl::StatusCode::kNotFound);
  this->Destroy(&joined.end);
  this->Destroy(&other.end);
}

TYPED_TEST_P(ShardContract, KeysThatAreNoneAreRefused) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(64, 0);
  const auto region = this->listener_->Register(memory.data(), memory.size());
  ASSERT_TRUE(region.ok());
  EXPECT_EQ(joined.end->ImportRegion(joined.listener, "").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(joined.end->ImportRegion(joined.listener, std::string(kRegionKeyBytesMax + 1, 'k'))
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(joined.end->ImportRegion(joined.listener, region->key.substr(0, 12)).status().code(),
            absl::StatusCode::kInvalidArgument);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, MemoryThatIsNoneIsNotRegistered) {
  uint8_t byte = 0;
  EXPECT_EQ(this->listener_->Register(nullptr, 10).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(this->listener_->Register(&byte, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(this->listener_->Register(&byte, UINT64_MAX).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TYPED_TEST_P(ShardContract, BackPressureQueuesToItsLimitThenRefusesAndEverythingAcceptedLands) {
  ShardLimits limits;
  limits.bytes_in_flight_max = 3 << 20;
  limits.puts_in_flight_max = 2;
  limits.puts_queued_max = 3;
  auto joined = this->Join(limits);
  constexpr size_t kSize = 1 << 20;
  std::vector<uint8_t> memory(8 * kSize, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  const auto bytes = this->Pattern(kSize, 1);
  for (uint64_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(joined.end->Put({joined.listener, region, i * kSize, bytes.data(), kSize, i}).ok())
        << i;
  }
  EXPECT_EQ(joined.end->puts_pending(), 5u);
  const auto refused = joined.end->Put({joined.listener, region, 0, bytes.data(), kSize, 99});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("3"));
  const auto events = this->Take(*joined.end, 5);
  ASSERT_EQ(events.size(), 5u);
  std::vector<uint64_t> tokens;
  for (const auto& event : events) {
    EXPECT_TRUE(event.status.ok()) << event.status;
    tokens.push_back(event.token);
  }
  EXPECT_THAT(tokens, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4));
  for (size_t i = 0; i < 5; ++i)
    EXPECT_EQ(std::memcmp(memory.data() + i * kSize, bytes.data(), kSize), 0) << i;
  // There is room again, and a put larger than everything that may fly flies alone.
  const auto large = this->Pattern(5 * kSize, 2);
  ASSERT_TRUE(joined.end->Put({joined.listener, region, 0, large.data(), large.size(), 6}).ok());
  EXPECT_TRUE(this->Take(*joined.end, 1).at(0).status.ok());
  EXPECT_EQ(std::memcmp(memory.data(), large.data(), large.size()), 0);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, AFrameSentAfterPutDoneFindsTheBytesThere) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(300'000, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  for (uint64_t i = 1; i <= 50; ++i) {
    const auto bytes = this->Pattern(memory.size(), static_cast<uint8_t>(i));
    ASSERT_TRUE(joined.end->Put({joined.listener, region, 0, bytes.data(), bytes.size(), i}).ok());
    ASSERT_TRUE(this->Take(*joined.end, 1).at(0).status.ok());
    ASSERT_TRUE(joined.end->Send(joined.listener, PingFrame(i)).ok());
    const auto events = this->Take(*this->listener_, 1);
    ASSERT_EQ(events.at(0).frame.value, i);
    ASSERT_TRUE(memory == bytes) << "round " << i;
  }
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, PutsToAPeerThatDiesEndOnceEachAndThenItIsGone) {
  ShardLimits limits;
  limits.puts_in_flight_max = 4;
  auto joined = this->Join(limits);
  std::vector<uint8_t> memory(4 << 20, 0);
  const RemoteRegionId region =
      this->Share(*joined.end, memory, *this->listener_, joined.at_listener);
  const std::vector<uint8_t> bytes = this->Pattern(memory.size(), 1);
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_TRUE(
        this->listener_->Put({joined.at_listener, region, 0, bytes.data(), bytes.size(), i}).ok());
  }
  this->ends_.Remove(joined.end.get());
  joined.end.reset();  // nobody else is polled meanwhile: the puts cannot all land
  const auto events = this->Take(*this->listener_, 11);
  ASSERT_EQ(events.size(), 11u);
  std::vector<uint64_t> tokens;
  size_t failed = 0;  // the first ones may have landed before it died
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(events[i].kind, CarrierEventKind::kPutDone);
    if (!events[i].status.ok()) {
      EXPECT_EQ(events[i].status.code(), absl::StatusCode::kUnavailable) << events[i].status;
      ++failed;
    }
    tokens.push_back(events[i].token);
  }
  EXPECT_GT(failed, 0u);
  EXPECT_THAT(tokens, ::testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
  EXPECT_EQ(events[10].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(this->listener_->puts_pending(), 0u);
  const auto late = this->listener_->Put({joined.at_listener, region, 0, bytes.data(), 1, 11});
  EXPECT_EQ(late.code(), absl::StatusCode::kNotFound);
}

TYPED_TEST_P(ShardContract, ClosingAPeerEndsItsPutsOnceEachAndTellsTheOtherEnd) {
  ShardLimits limits;
  limits.puts_in_flight_max = 1;
  auto joined = this->Join(limits);
  std::vector<uint8_t> memory(8 << 20, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  const auto bytes = this->Pattern(memory.size(), 1);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(joined.end->Put({joined.listener, region, 0, bytes.data(), bytes.size(), i}).ok());
  }
  joined.end->Close(joined.listener);
  EXPECT_EQ(joined.end->Send(joined.listener, PingFrame(1)).code(), absl::StatusCode::kNotFound);
  const auto events = this->Take(*joined.end, 3);
  ASSERT_EQ(events.size(), 3u);
  std::vector<uint64_t> tokens, cancelled;
  for (const auto& event : events) {
    EXPECT_EQ(event.kind, CarrierEventKind::kPutDone);
    tokens.push_back(event.token);
    if (event.status.ok()) continue;
    EXPECT_EQ(event.status.code(), absl::StatusCode::kCancelled) << event.status;
    cancelled.push_back(event.token);
  }
  EXPECT_THAT(tokens, ::testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_THAT(cancelled, ::testing::IsSupersetOf({1, 2}));  // the first was under way
  EXPECT_EQ(this->Take(*this->listener_, 1).at(0).kind, CarrierEventKind::kPeerGone);
  EXPECT_TRUE(this->ends_.Take(joined.end.get()).empty());
  EXPECT_EQ(joined.end->puts_pending(), 0u);
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, SeveringCancelsOurPutsOnceEach) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(8 << 20, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  const auto bytes = this->Pattern(memory.size(), 1);
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(joined.end->Put({joined.listener, region, 0, bytes.data(), bytes.size(), i}).ok());
  }
  joined.end->Sever(joined.listener);
  joined.end->Sever(joined.listener);  // unknown by now: ignored
  const auto events = this->Take(*joined.end, 3);
  ASSERT_EQ(events.size(), 3u);
  std::vector<uint64_t> tokens;
  for (const auto& event : events) {
    EXPECT_EQ(event.kind, CarrierEventKind::kPutDone);
    EXPECT_EQ(event.status.code(), absl::StatusCode::kCancelled) << event.status;
    tokens.push_back(event.token);
  }
  EXPECT_THAT(tokens, ::testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_EQ(this->Take(*this->listener_, 1).at(0).kind, CarrierEventKind::kPeerGone);
  EXPECT_TRUE(this->ends_.Take(joined.end.get()).empty());
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, AfterSeverNothingOfThePeerLandsHere) {
  auto joined = this->Join();
  std::vector<uint8_t> memory(16 << 20, 0);
  const RemoteRegionId region = this->Share(*this->listener_, memory, *joined.end, joined.listener);
  const std::vector<uint8_t> bytes = this->Pattern(memory.size(), 1);
  ASSERT_TRUE(joined.end->Put({joined.listener, region, 0, bytes.data(), bytes.size(), 1}).ok());
  this->listener_->Sever(joined.at_listener);
  std::fill(memory.begin(), memory.end(), uint8_t{0xee});
  const auto events = this->Take(*joined.end, 2);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPutDone);
  EXPECT_EQ(events[0].status.code(), absl::StatusCode::kUnavailable) << events[0].status;
  EXPECT_EQ(events[1].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(std::count(memory.begin(), memory.end(), uint8_t{0xee}),
            static_cast<ptrdiff_t>(memory.size()));
  this->Destroy(&joined.end);
}

TYPED_TEST_P(ShardContract, OneEndConnectsToSeveralAndListensToo) {
  auto second = this->NewEnd();
  auto hub = this->NewEnd();
  std::vector<uint8_t> first_memory(5000, 0), second_memory(5000, 0);
  std::vector<ShardCarrier*> others{this->listener_.get(), second.get()};
  std::vector<std::vector<uint8_t>*> memories{&first_memory, &second_memory};
  const auto bytes = this->Pattern(5000, 8);
  for (size_t i = 0; i < 2; ++i) {
    const AdmissionKey key = *NewAdmissionKey();
    ASSERT_TRUE(others[i]->Admit(key, i).ok());
    const auto peer = hub->Connect(others[i]->address(), key);
    ASSERT_TRUE(peer.ok());
    const RemoteRegionId region = this->Share(*others[i], *memories[i], *hub, *peer);
    ASSERT_TRUE(hub->Put({*peer, region, 0, bytes.data(), bytes.size(), i}).ok());
  }
  const auto done = this->Take(*hub, 2);
  ASSERT_EQ(done.size(), 2u);
  for (const auto& event : done) EXPECT_TRUE(event.status.ok()) << event.status;
  EXPECT_TRUE(first_memory == bytes);
  EXPECT_TRUE(second_memory == bytes);
  this->Destroy(&hub);
  this->Destroy(&second);
}

REGISTER_TYPED_TEST_SUITE_P(
    ShardContract, AnAdmittedConnectionIsUpWithItsTagAndTheKeyWorksOnce,
    AWithdrawnOrUnknownKeyOpensNothing, ConnectingToNobodyFailsItsPutsAndThenThePeerIsGone,
    WhatIsNoAddressIsRefusedAtOnce, FramesSentBeforeTheOtherEndLetUsInArriveAfterIt,
    PutsOfEverySizeLandWholeAndOnlyWhereTheyShould, TheListenerPutsIntoThePeersRegionToo,
    APutBeyondTheRegionIsRefusedWithTheNumbers, ARegionIsOfOnePeerAndEndsWhenReleased,
    KeysThatAreNoneAreRefused, MemoryThatIsNoneIsNotRegistered,
    BackPressureQueuesToItsLimitThenRefusesAndEverythingAcceptedLands,
    AFrameSentAfterPutDoneFindsTheBytesThere, PutsToAPeerThatDiesEndOnceEachAndThenItIsGone,
    ClosingAPeerEndsItsPutsOnceEachAndTellsTheOtherEnd, SeveringCancelsOurPutsOnceEach,
    AfterSeverNothingOfThePeerLandsHere, OneEndConnectsToSeveralAndListensToo);

}  // namespace muond
