#include "proto/carrier/ucx/ucx_carrier.h"

#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "proto/carrier/ucx/messages.h"
#include "proto/carrier/ucx/socket_address.h"
#include "tests/support/carrier_contract.h"
#include "tests/support/shard_contract.h"

namespace muond {
namespace {

// Heartbeats of their own would make an idle carrier readable now and then.
UcxOptions Quiet(const char* transports) {
  UcxOptions options;
  options.listen = "127.0.0.1:0";
  options.transports = transports;
  options.liveness.heartbeat_ns = 20'000'000'000;
  options.liveness.silence_ns_max = 60'000'000'000;
  return options;
}

// Carriers of one thread: whoever of them is polled, all of them make progress, as if each had a process of its own.
class Together {
 public:
  struct Member {
    std::unique_ptr<ShardCarrier> carrier;
    std::vector<CarrierEvent> events;
  };
  Together() : epoll_(::epoll_create1(EPOLL_CLOEXEC)), waiting_(::eventfd(0, EFD_NONBLOCK)) {
    Watch(waiting_);
  }
  ~Together() {
    ::close(epoll_);
    ::close(waiting_);
  }
  int event_descriptor() const { return epoll_; }
  void Add(Member* member) {
    members_.push_back(member);
    Watch(member->carrier->event_descriptor());
  }
  void Remove(Member* member) {
    std::erase(members_, member);
    std::atomic<bool> ended = false;
    std::thread ending([&] {
      member->carrier.reset();
      ended = true;
    });
    while (!ended) PollAll();
    ending.join();
  }
  void PollAll() {
    for (Member* member : members_) member->carrier->Poll(&member->events);
    MarkWaiting();
  }
  void Take(Member* member, std::vector<CarrierEvent>* events) {
    PollAll();
    events->insert(events->end(), member->events.begin(), member->events.end());
    member->events.clear();
    MarkWaiting();
  }

 private:
  void Watch(int descriptor) {
    epoll_event event{};
    event.events = EPOLLIN;
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event);
  }
  void MarkWaiting() {
    uint64_t count = 0;
    for (const Member* member : members_) count += member->events.size();
    uint64_t ignored;
    [[maybe_unused]] ssize_t n = ::read(waiting_, &ignored, sizeof(ignored));
    if (count > 0) n = ::write(waiting_, &count, sizeof(count));
  }
  const int epoll_, waiting_;
  std::vector<Member*> members_;
};

class TogetherCarrier : public Carrier {
 public:
  TogetherCarrier(Together* together, std::unique_ptr<ShardCarrier> carrier) : together_(together) {
    member_.carrier = std::move(carrier);
    together_->Add(&member_);
  }
  ~TogetherCarrier() override { together_->Remove(&member_); }
  ShardCarrier& inner() { return *member_.carrier; }
  int event_descriptor() const override { return together_->event_descriptor(); }
  void Poll(std::vector<CarrierEvent>* events) override { together_->Take(&member_, events); }
  absl::Status Send(PeerId peer, const Frame& frame) override {
    return member_.carrier->Send(peer, frame);
  }
  void Close(PeerId peer) override { member_.carrier->Close(peer); }
  uint64_t frames_dropped() const override { return member_.carrier->frames_dropped(); }

 private:
  Together* const together_;
  Together::Member member_;
};

template <const char* kTransports>
class UcxPair : public CarrierPair {
 public:
  static absl::StatusOr<std::unique_ptr<CarrierPair>> Create() {
    auto pair = std::make_unique<UcxPair>();
    auto carrier = CreateUcxCarrier(Quiet(kTransports));
    if (!carrier.ok()) return carrier.status();
    pair->listener_ = std::make_unique<TogetherCarrier>(&pair->together_, *std::move(carrier));
    return pair;
  }
  bool knows_credentials() const override { return false; }
  Carrier& listener() override { return *listener_; }
  absl::StatusOr<Connection> Connect() override {
    const AdmissionKey key = *NewAdmissionKey();
    if (auto status = listener_->inner().Admit(key, 0); !status.ok()) return status;
    UcxOptions options = Quiet(kTransports);
    options.listen.clear();
    auto carrier = CreateUcxCarrier(options);
    if (!carrier.ok()) return carrier.status();
    auto peer = (*carrier)->Connect(listener_->inner().address(), key);
    if (!peer.ok()) return peer.status();
    return Connection{std::make_unique<TogetherCarrier>(&together_, *std::move(carrier)), *peer};
  }

 private:
  Together together_;
  std::unique_ptr<TogetherCarrier> listener_;
};

template <const char* kTransports>
class UcxNet : public ShardNet {
 public:
  static absl::StatusOr<std::unique_ptr<ShardNet>> Create() { return std::make_unique<UcxNet>(); }
  absl::StatusOr<std::unique_ptr<ShardCarrier>> NewEnd(const ShardLimits& limits) override {
    UcxOptions options = Quiet(kTransports);
    options.limits = limits;
    return CreateUcxCarrier(options);
  }
};

constexpr char kTcp[] = "tcp,self";
constexpr char kDefault[] = "";
INSTANTIATE_TYPED_TEST_SUITE_P(UcxTcp, CarrierContract, UcxPair<kTcp>);
INSTANTIATE_TYPED_TEST_SUITE_P(UcxTcp, ShardContract, UcxNet<kTcp>);
INSTANTIATE_TYPED_TEST_SUITE_P(UcxDefault, ShardContract, UcxNet<kDefault>);

TEST(UcxCarrierTest, NothingOfUcxStaysInSignalsOrInLibcsMappingCalls) {
  const std::vector<const char*> hooked{"mmap", "munmap", "mremap", "madvise", "brk", "shmat"};
  std::vector<std::string> before;
  for (const char* name : hooked)
    before.emplace_back(static_cast<const char*>(::dlsym(RTLD_DEFAULT, name)), 16);
  auto carrier = CreateUcxCarrier(Quiet(kTcp));
  ASSERT_TRUE(carrier.ok()) << carrier.status();
  std::vector<uint8_t> memory(1 << 20);
  ASSERT_TRUE((*carrier)->Register(memory.data(), memory.size()).ok());
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
    struct sigaction action {};
    ASSERT_EQ(::sigaction(signal, nullptr, &action), 0);
    Dl_info owner{};
    const bool named = ::dladdr(reinterpret_cast<void*>(action.sa_sigaction), &owner) != 0;
    EXPECT_FALSE(named && std::string(owner.dli_fname).find("libucs") != std::string::npos)
        << signal;
  }
  for (size_t i = 0; i < hooked.size(); ++i) {
    EXPECT_EQ(std::string(static_cast<const char*>(::dlsym(RTLD_DEFAULT, hooked[i])), 16),
              before[i])
        << hooked[i];
  }
}

TEST(UcxCarrierTest, WhatCannotBeListenedOnIsRefusedWithTheAddress) {
  UcxOptions options = Quiet(kTcp);
  options.listen = "192.0.2.1:0";  // not an address of this machine
  const auto carrier = CreateUcxCarrier(options);
  EXPECT_EQ(carrier.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(carrier.status().message()), ::testing::HasSubstr("192.0.2.1:0"));
  options.listen = "localhost:0";
  EXPECT_EQ(CreateUcxCarrier(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Quiet(kTcp);
  options.liveness.heartbeat_ns = options.liveness.silence_ns_max;
  EXPECT_EQ(CreateUcxCarrier(options).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(UcxMessagesTest, EveryBitOfAMessageCounts) {
  Control control;
  control.kind = ControlKind::kLanded;
  control.carrier = 0x0102030405060708;
  control.value = 77;
  control.code = absl::StatusCode::kOutOfRange;
  const auto bytes = Encode(control);
  const auto back = DecodeControl(bytes);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->value, 77u);
  EXPECT_EQ(back->carrier, control.carrier);
  EXPECT_EQ(back->code, control.code);
  const auto header = Encode(PieceHeader{1, 2, 3, 4});
  const std::string key = Encode(RegionKey{5, 6, 7, true});
  EXPECT_EQ(DecodeRegionKey(key)->size_bytes, 7u);
  EXPECT_TRUE(DecodeRegionKey(key)->device);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    auto wrong = bytes;
    wrong[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(DecodeControl(wrong).ok()) << bit;
  }
  for (size_t bit = 0; bit < 8 * header.size(); ++bit) {
    auto wrong = header;
    wrong[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(DecodePieceHeader(wrong).ok()) << bit;
  }
  for (size_t bit = 0; bit < 8 * key.size(); ++bit) {
    std::string wrong = key;
    wrong[bit / 8] = static_cast<char>(wrong[bit / 8] ^ (1 << bit % 8));
    EXPECT_FALSE(DecodeRegionKey(wrong).ok()) << bit;
  }
  EXPECT_FALSE(DecodeControl(std::span<const std::byte>(bytes).first(63)).ok());
  EXPECT_FALSE(DecodePieceHeader(std::span<const std::byte>(header).first(39)).ok());
}

TEST(UcxSocketAddressTest, NumbersOfBothKindsComeBackAsTheyWere) {
  for (const char* text : {"127.0.0.1:7470", "[fd00::1]:65535", "0.0.0.0:1"}) {
    const auto address = ParseSocketAddress(text, false);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(TextOf(address->storage), text);
  }
  EXPECT_TRUE(ParseSocketAddress("127.0.0.1:0", true).ok());
  for (const char* text : {"127.0.0.1:0", "fd00::1:7470", "[127.0.0.1]:1", "[]:1", "1.2.3.4:70000"})
    EXPECT_FALSE(ParseSocketAddress(text, false).ok()) << text;
}

}  // namespace
}  // namespace muond
