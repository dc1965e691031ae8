// The UCX carrier between two network namespaces joined by a veth pair: this process moves into one of its own, the
// other process into another. Needs the right to make them; without it the tests are skipped.
#include <cstdlib>
#include <memory>

#include "tests/integration/carrier/other_process.h"
#include "tests/support/own_network.h"

namespace muond {
namespace {

// Up, and seen to be: the kernel tells a new link's state up to a second later, and UCX leaves out one that is down.
std::string Up(const std::string& name, const std::string& address) {
  return "ip link set lo up && ip addr add " + address + " dev " + name + " && ip link set " +
         name + " up && until [ $(cat /sys/class/net/" + name +
         "/operstate) = up ]; do sleep 0.02; done";
}

class UcxNetworkTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    refusal_ = MoveIntoOwnNetwork();
    if (refusal_.empty() && std::system("ip link set lo up") != 0)
      refusal_ = "no ip command (iproute2)";
  }
  void SetUp() override {
    if (!refusal_.empty()) GTEST_SKIP() << refusal_;
    other_ = std::make_unique<OtherProcess>(
        std::vector<std::string>{"10.77.0.2:0", Up("theirs", "10.77.0.2/24")});
    ASSERT_EQ(other_->Line(), "ready");
    Run("ip link add ours type veth peer name theirs netns " + std::to_string(other_->pid()) +
        " && ip addr add 10.77.0.1/24 dev ours && ip link set ours up");
    other_->Say("go");
    ASSERT_TRUE(other_->Listens());
    Run("until [ $(cat /sys/class/net/ours/operstate) = up ]; do sleep 0.02; done");
    ours_ = OurEnd();
  }
  void TearDown() override {
    ours_.reset();
    other_.reset();
    if (refusal_.empty()) (void)!std::system("ip link del ours 2>/dev/null");
  }
  static void Run(const std::string& command) {
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  static std::string refusal_;
  std::unique_ptr<OtherProcess> other_;
  std::unique_ptr<ShardCarrier> ours_;
};
std::string UcxNetworkTest::refusal_;

TEST_F(UcxNetworkTest, FramesAndShardsCrossNamespaces) {
  const PeerId peer = ConnectTo(*other_, *ours_);
  const std::vector<uint8_t> bytes(size_t{32} << 20, 7);
  StartPuts(*other_, *ours_, peer, bytes, 3);
  const auto events = AwaitEvents(*ours_, 3);
  ASSERT_EQ(events.size(), 3u);
  for (const auto& event : events) EXPECT_TRUE(event.status.ok()) << event.status;
}

TEST_F(UcxNetworkTest, ACutCableEndsThePeerAndAHealedOneLetsItBackIn) {
  const PeerId peer = ConnectTo(*other_, *ours_);
  const std::vector<uint8_t> bytes(size_t{32} << 20, 7);
  StartPuts(*other_, *ours_, peer, bytes, 6);
  Run("ip link set ours down");
  ExpectDeath(*ours_, peer, 6);
  Run("ip link set ours up");
  ConnectTo(*other_, *ours_);
}

TEST_F(UcxNetworkTest, AHostThatDoesNotAnswerEndsInPeerGone) {
  auto impatient = OurEnd(500'000'000);
  const auto peer = impatient->Connect("10.77.0.99:7470", *NewAdmissionKey());
  ASSERT_TRUE(peer.ok());
  const auto events = AwaitEvents(*impatient, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(events[0].status.code(), absl::StatusCode::kUnavailable) << events[0].status;
  ConnectTo(*other_, *ours_);  // nobody else is held up
}

}  // namespace
}  // namespace muond
