#include "proto/carrier/ipc/ipc_carrier.h"

#include <sys/resource.h>
#include <sys/socket.h>

#include "proto/carrier/ipc/unix_socket.h"
#include "tests/support/carrier_contract.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

class IpcPair : public CarrierPair {
 public:
  static absl::StatusOr<std::unique_ptr<CarrierPair>> Create() {
    auto pair = std::make_unique<IpcPair>();
    auto listening = ListenSeqpacket(pair->path(), 128);
    if (!listening.ok()) return listening.status();
    auto carrier = ListenIpc(*std::move(listening));
    if (!carrier.ok()) return carrier.status();
    pair->listener_ = *std::move(carrier);
    return pair;
  }
  std::string path() const { return scratch_ / "frames.sock"; }
  Carrier& listener() override { return *listener_; }
  absl::StatusOr<Connection> Connect() override {
    auto connected = ConnectIpc(path());
    if (!connected.ok()) return connected.status();
    return Connection{std::move(connected->carrier), connected->peer};
  }

 private:
  ScratchDirectory scratch_;
  std::unique_ptr<Carrier> listener_;
};
INSTANTIATE_TYPED_TEST_SUITE_P(Ipc, CarrierContract, IpcPair);

// A peer that speaks bytes, not frames.
class IpcCarrierTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto listening = ListenSeqpacket(path_, 128);
    ASSERT_TRUE(listening.ok()) << listening.status();
    auto carrier = ListenIpc(*std::move(listening));
    ASSERT_TRUE(carrier.ok()) << carrier.status();
    carrier_ = *std::move(carrier);
    auto raw = ConnectSeqpacket(path_);
    ASSERT_TRUE(raw.ok()) << raw.status();
    raw_ = *std::move(raw);
    ASSERT_EQ(TakeEvents(*carrier_, 1).size(), 1u);
  }
  void SendRaw(const void* data, size_t size) {
    ASSERT_EQ(::send(raw_.get(), data, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
  }
  ScratchDirectory scratch_;
  const std::string path_ = scratch_ / "frames.sock";
  std::unique_ptr<Carrier> carrier_;
  UniqueFd raw_;
};

TEST_F(IpcCarrierTest, WrongLengthsAreToldWithTheNumbersAndThePeerStays) {
  const std::vector<char> bytes(5000, 'x');
  for (const size_t size : {size_t{1}, size_t{63}, size_t{65}, size_t{5000}}) {
    SendRaw(bytes.data(), size);
    const auto events = TakeEvents(*carrier_, 1);
    ASSERT_EQ(events.size(), 1u) << size;
    EXPECT_EQ(events[0].kind, CarrierEventKind::kBadMessage) << size;
    EXPECT_THAT(std::string(events[0].status.message()), ::testing::HasSubstr(std::to_string(size)))
        << size;
  }
  const auto good = Encode(PingFrame(3));
  SendRaw(good.data(), good.size());
  const auto events = TakeEvents(*carrier_, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kFrame);
  EXPECT_EQ(events[0].frame.value, 3u);
}

TEST_F(IpcCarrierTest, AnEmptyMessageIsBadNotTheEnd) {
  SendRaw("", 0);
  const auto events = TakeEvents(*carrier_, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kBadMessage);
}

TEST_F(IpcCarrierTest, AFlippedBitIsRefused) {
  auto bytes = Encode(PingFrame(3));
  bytes[40] ^= std::byte{1};
  SendRaw(bytes.data(), bytes.size());
  const auto events = TakeEvents(*carrier_, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kBadMessage);
}

TEST_F(IpcCarrierTest, APeerThatKeepsSendingRubbishIsCutOff) {
  for (int i = 0; i < kBadMessagesMax; ++i) SendRaw("rubbish", 7);
  const auto events = TakeEvents(*carrier_, kBadMessagesMax + 1);
  ASSERT_EQ(events.size(), static_cast<size_t>(kBadMessagesMax) + 1);
  EXPECT_EQ(events.back().kind, CarrierEventKind::kPeerGone);
  char byte;
  EXPECT_EQ(::recv(raw_.get(), &byte, 1, 0), 0);
}

TEST_F(IpcCarrierTest, ConnectionsBeyondTheLimitAreClosedAndOthersGoOn) {
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const size_t needed = 2 * kPeersMax + 64;
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = needed;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0) << "needs " << needed << " descriptors";
  }
  std::vector<UniqueFd> others;
  size_t ups = 0;
  while (others.size() <
         kPeersMax) {  // one is connected already: the last of these is one too many
    auto other = ConnectSeqpacket(path_);
    ASSERT_TRUE(other.ok()) << other.status();
    others.push_back(*std::move(other));
    if (others.size() % 50 == 0) ups += Drain(*carrier_).size();
  }
  ups += Drain(*carrier_).size();
  EXPECT_EQ(ups, kPeersMax - 1);
  char byte;
  EXPECT_EQ(::recv(others.back().get(), &byte, 1, MSG_DONTWAIT), 0);
  const auto good = Encode(PingFrame(8));
  SendRaw(good.data(), good.size());
  EXPECT_EQ(TakeEvents(*carrier_, 1).at(0).frame.value, 8u);
}

TEST(IpcCarrierConnectTest, NobodyListeningIsUnavailableWithThePath) {
  ScratchDirectory scratch;
  const auto missing = ConnectIpc(scratch / "none.sock");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(missing.status().message()), ::testing::HasSubstr("none.sock"));
}

TEST(UnixSocketTest, APathTooLongIsRefusedWithBothLengths) {
  const std::string path = "/tmp/" + std::string(120, 'a');
  const auto status = ListenSeqpacket(path, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(::testing::HasSubstr("125"), ::testing::HasSubstr("107")));
}

}  // namespace
}  // namespace muond
