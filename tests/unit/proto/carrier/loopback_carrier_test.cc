#include "proto/carrier/loopback/loopback_carrier.h"

#include <thread>

#include "tests/support/carrier_contract.h"

namespace muond {
namespace {

class LoopbackPair : public CarrierPair {
 public:
  static absl::StatusOr<std::unique_ptr<CarrierPair>> Create() {
    auto listener = ListenLoopback();
    if (!listener.ok()) return listener.status();
    auto pair = std::make_unique<LoopbackPair>();
    pair->listener_ = *std::move(listener);
    return pair;
  }
  Carrier& listener() override { return *listener_.carrier; }
  absl::StatusOr<Connection> Connect() override {
    auto connected = ConnectLoopback(listener_.hub);
    if (!connected.ok()) return connected.status();
    return Connection{std::move(connected->carrier), connected->peer};
  }

 private:
  LoopbackListener listener_;
};
INSTANTIATE_TYPED_TEST_SUITE_P(Loopback, CarrierContract, LoopbackPair);

TEST(LoopbackCarrierTest, ConnectingAfterTheListenerWentIsUnavailable) {
  auto listener = ListenLoopback();
  ASSERT_TRUE(listener.ok());
  listener->carrier.reset();
  EXPECT_EQ(ConnectLoopback(listener->hub).status().code(), absl::StatusCode::kUnavailable);
}

TEST(LoopbackCarrierTest, EndsOnTwoThreadsExchangeEveryFrame) {
  auto listener = ListenLoopback();
  ASSERT_TRUE(listener.ok());
  auto client = ConnectLoopback(listener->hub);
  ASSERT_TRUE(client.ok());
  constexpr uint64_t kRounds = 2000;
  std::thread echo([&] {
    for (uint64_t seen = 0; seen < kRounds;) {
      for (const CarrierEvent& event : TakeEvents(*listener->carrier, 1)) {
        if (event.kind != CarrierEventKind::kFrame) continue;
        ++seen;
        ASSERT_TRUE(listener->carrier->Send(event.peer, event.frame).ok());
      }
    }
  });
  for (uint64_t i = 1; i <= kRounds; ++i) {
    ASSERT_TRUE(client->carrier->Send(client->peer, PingFrame(i)).ok());
    const auto events = TakeEvents(*client->carrier, 1);
    ASSERT_EQ(events.size(), 1u);
    ASSERT_EQ(events[0].frame.value, i);
  }
  echo.join();
}

}  // namespace
}  // namespace muond
