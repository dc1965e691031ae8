#include "proto/carrier/loopback/loopback_shard_carrier.h"

#include "tests/support/carrier_contract.h"
#include "tests/support/shard_contract.h"

namespace muond {
namespace {

// Frames: a net without delay, so that nobody has to move its time.
class LoopbackShardPair : public CarrierPair {
 public:
  static absl::StatusOr<std::unique_ptr<CarrierPair>> Create() {
    auto pair = std::make_unique<LoopbackShardPair>();
    auto end = CreateLoopbackShards(pair->net_);
    if (!end.ok()) return end.status();
    pair->listener_ = *std::move(end);
    return pair;
  }
  bool knows_credentials() const override { return false; }
  Carrier& listener() override { return *listener_; }
  absl::StatusOr<Connection> Connect() override {
    auto key = NewAdmissionKey();
    if (!key.ok()) return key.status();
    if (auto status = listener_->Admit(*key, 0); !status.ok()) return status;
    auto end = CreateLoopbackShards(net_);
    if (!end.ok()) return end.status();
    auto peer = (*end)->Connect(listener_->address(), *key);
    if (!peer.ok()) return peer.status();
    return Connection{*std::move(end), *peer};
  }

 private:
  std::shared_ptr<LoopbackNet> net_ = LoopbackNet::Create();
  std::unique_ptr<ShardCarrier> listener_;
};
INSTANTIATE_TYPED_TEST_SUITE_P(LoopbackShards, CarrierContract, LoopbackShardPair);

// Shards: every look at the net lets a millisecond pass, and everything takes a millisecond.
class LoopbackShardNet : public ShardNet {
 public:
  static absl::StatusOr<std::unique_ptr<ShardNet>> Create() {
    return std::make_unique<LoopbackShardNet>();
  }
  absl::StatusOr<std::unique_ptr<ShardCarrier>> NewEnd(const ShardLimits& limits) override {
    return CreateLoopbackShards(net_, limits);
  }
  void Progress() override { net_->AdvanceTo(now_ns_ += 1'000'000); }

 private:
  std::shared_ptr<LoopbackNet> net_ = LoopbackNet::Create({.delay_ns = 1'000'000});
  int64_t now_ns_ = 0;
};
INSTANTIATE_TYPED_TEST_SUITE_P(LoopbackShards, ShardContract, LoopbackShardNet);

class LoopbackNetTest : public ::testing::Test {
 protected:
  void Start(const LoopbackNetOptions& options) {
    net_ = LoopbackNet::Create(options);
    listener_ = *CreateLoopbackShards(net_);
    end_ = *CreateLoopbackShards(net_);
    const AdmissionKey key = *NewAdmissionKey();
    ASSERT_TRUE(listener_->Admit(key, 0).ok());
    peer_ = *end_->Connect(listener_->address(), key);
    net_->AdvanceTo(options.delay_ns);
    ASSERT_EQ(Drain(*listener_).size(), 1u);
  }
  std::shared_ptr<LoopbackNet> net_;
  std::unique_ptr<ShardCarrier> listener_, end_;
  PeerId peer_ = kNoPeer;
};

TEST_F(LoopbackNetTest, WhatIsSentLandsAfterTheDelayAndNotBefore) {
  Start({.delay_ns = 1000});
  ASSERT_TRUE(end_->Send(peer_, PingFrame(1)).ok());
  net_->AdvanceTo(1999);
  EXPECT_TRUE(Drain(*listener_).empty());
  net_->AdvanceTo(2000);
  EXPECT_EQ(Drain(*listener_).size(), 1u);
}

TEST_F(LoopbackNetTest, ALossyNetLosesFramesButNoPut) {
  Start({.frame_loss = 0.5, .seed = 3});
  std::vector<uint8_t> memory(100, 0);
  const auto region = end_->ImportRegion(peer_, listener_->Register(memory.data(), 100)->key);
  ASSERT_TRUE(region.ok());
  const uint8_t one = 1;
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(end_->Send(peer_, PingFrame(i)).ok());
    ASSERT_TRUE(end_->Put({peer_, *region, i, &one, 1, i}).ok());
  }
  const size_t frames = Drain(*listener_).size();
  EXPECT_GT(frames, 20u);
  EXPECT_LT(frames, 80u);
  EXPECT_EQ(Drain(*end_).size(), 100u);
  EXPECT_EQ(std::count(memory.begin(), memory.end(), 1), 100);
}

TEST_F(LoopbackNetTest, AShortCutLosesNothingALongOneEndsBothPeers) {
  Start({.silence_ns_max = 1000});
  net_->Cut(listener_->address());
  ASSERT_TRUE(end_->Send(peer_, PingFrame(1)).ok());
  net_->AdvanceTo(500);
  EXPECT_TRUE(Drain(*listener_).empty());
  net_->Heal(listener_->address());
  EXPECT_EQ(Drain(*listener_).at(0).frame.value, 1u);

  net_->Cut(listener_->address());
  ASSERT_TRUE(end_->Send(peer_, PingFrame(2)).ok());
  net_->AdvanceTo(1500);
  for (const auto* carrier : {listener_.get(), end_.get()}) {
    const auto events = Drain(*const_cast<ShardCarrier*>(carrier));
    ASSERT_EQ(events.size(), 1u);
    EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerGone);
    EXPECT_THAT(std::string(events[0].status.message()), ::testing::HasSubstr("1000 ns"));
  }
}

TEST_F(LoopbackNetTest, APutIntoAnUnregisteredRegionFails) {
  Start({.delay_ns = 10});
  std::vector<uint8_t> memory(100, 0);
  const auto ours = listener_->Register(memory.data(), 100);
  const auto region = end_->ImportRegion(peer_, ours->key);
  const uint8_t one = 1;
  ASSERT_TRUE(end_->Put({peer_, *region, 0, &one, 1, 4}).ok());
  ASSERT_TRUE(listener_->Unregister(ours->id).ok());
  net_->AdvanceTo(20);
  const auto events = Drain(*end_);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(memory[0], 0);
}

}  // namespace
}  // namespace muond
