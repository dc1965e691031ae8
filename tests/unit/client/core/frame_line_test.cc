#include "client/core/frame_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "proto/carrier/ipc/unix_socket.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSession = 77;

// A keeper and a stepper, as far as a line sees them.
class FrameLineTest : public ::testing::Test {
 protected:
  FrameLineTest() {
    auto keeper = ListenSeqpacket(scratch_ / "keeper.sock", 4);
    auto stepper = ListenSeqpacket(scratch_ / "frames.sock", 4);
    EXPECT_TRUE(keeper.ok() && stepper.ok());
    keeper_listens_ = *std::move(keeper);
    stepper_listens_ = *std::move(stepper);
  }

  std::unique_ptr<FrameLine> Line(absl::Duration repair_timeout = absl::Seconds(20)) {
    std::thread serve([this] {
      DescriptorChannel channel(UniqueFd(::accept(keeper_listens_.get(), nullptr, nullptr)));
      EXPECT_TRUE(channel.Receive(20'000).ok());
      KeeperMessage end;
      end.verb = KeeperVerb::kEnd;
      EXPECT_TRUE(channel.Send(end, -1).ok());
      keeper_ = std::make_unique<DescriptorChannel>(std::move(channel));
    });
    auto fetch = SlabFetch::Open(scratch_ / "keeper.sock", kSession, 20'000);
    serve.join();
    EXPECT_TRUE(fetch.ok()) << fetch.status();
    Frame identity;
    identity.job = 5;
    identity.session = kSession;
    identity.rank = 1;
    identity.incarnation = 1;
    identity.epoch = 1;
    return std::make_unique<FrameLine>(scratch_ / "frames.sock", identity, *std::move(fetch),
                                       repair_timeout);
  }

  void Accept() { stepper_.Reset(::accept(stepper_listens_.get(), nullptr, nullptr)); }
  Frame Read() {
    std::array<std::byte, kFrameBytes> bytes;
    EXPECT_EQ(::recv(stepper_.get(), bytes.data(), bytes.size(), 0), ssize_t{kFrameBytes});
    auto frame = Decode(bytes);
    EXPECT_TRUE(frame.ok()) << frame.status();
    return frame.ok() ? *frame : Frame();
  }
  void Say(FrameType type, uint64_t session = kSession) {
    Frame frame;
    frame.type = type;
    frame.job = 5;
    frame.session = session;
    frame.rank = 1;
    frame.incarnation = 1;
    const auto bytes = Encode(frame);
    EXPECT_EQ(::send(stepper_.get(), bytes.data(), bytes.size(), 0), ssize_t{kFrameBytes});
  }
  // The line's hello is answered; afterwards it is welcome.
  void Greet(FrameLine* line, uint64_t last_step) {
    auto event = line->Wait(absl::ZeroDuration(), last_step, &frames_);
    ASSERT_TRUE(event.ok()) << event.status();
    Accept();
    const Frame hello = Read();
    EXPECT_EQ(hello.type, FrameType::kHello);
    EXPECT_EQ(hello.step, last_step);
    EXPECT_EQ(hello.session, kSession);
    Say(FrameType::kWelcome);
    event = line->Wait(absl::Seconds(20), last_step, &frames_);
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_EQ(*event, LineEvent::kWelcome);
  }

  ScratchDirectory scratch_;
  UniqueFd keeper_listens_, stepper_listens_, stepper_;
  std::unique_ptr<DescriptorChannel> keeper_;
  std::vector<Frame> frames_;
};

TEST_F(FrameLineTest, FramesOfThisSessionComeThroughAndOthersDoNot) {
  auto line = Line();
  Greet(line.get(), 3);
  Say(FrameType::kDone, kSession + 1);
  Say(FrameType::kDone);
  auto event = line->Wait(absl::Seconds(20), 3, &frames_);
  ASSERT_TRUE(event.ok()) << event.status();
  ASSERT_EQ(frames_.size(), 1u);
  EXPECT_EQ(frames_[0].session, kSession);
  EXPECT_EQ(*line->Wait(absl::ZeroDuration(), 3, &frames_), LineEvent::kNothing);
}

TEST_F(FrameLineTest, ALostStepperIsFoundAgainAndGreetedWithTheLastStep) {
  auto line = Line();
  Greet(line.get(), 3);
  stepper_.Reset();
  // Sees the end, connects again, and says hello: the listening socket is the keeper's and stays.
  ASSERT_TRUE(line->Wait(absl::Milliseconds(20), 8, &frames_).ok());
  Accept();
  EXPECT_EQ(Read().step, 8u);
  Say(FrameType::kWelcome);
  auto event = line->Wait(absl::Seconds(20), 8, &frames_);
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(*event, LineEvent::kWelcome);
  EXPECT_EQ(line->losses(), 1u);
}

TEST_F(FrameLineTest, TheKeepersEndIsTheEndAndStaysSo) {
  auto line = Line();
  Greet(line.get(), 0);
  keeper_.reset();
  absl::Status status;
  for (int i = 0; i < 10 && status.ok(); ++i) {
    status = line->Wait(absl::Seconds(20), 0, &frames_).status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
  EXPECT_EQ(line->Wait(absl::ZeroDuration(), 0, &frames_).status(), status);
}

TEST_F(FrameLineTest, WithoutAStepperForTooLongItGivesUpAndSaysWhere) {
  auto line = Line(absl::Milliseconds(50));
  stepper_listens_.Reset();
  ::unlink((scratch_ / "frames.sock").c_str());
  absl::Status status;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    status = line->Wait(absl::Milliseconds(10), 0, &frames_).status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("frames.sock"));
}

TEST_F(FrameLineTest, AStepperThatSaysGarbageIsLeftForTheNext) {
  auto line = Line();
  Greet(line.get(), 0);
  ASSERT_EQ(::send(stepper_.get(), "garbage", 7, 0), 7);
  ASSERT_TRUE(line->Wait(absl::Milliseconds(20), 0, &frames_).ok());
  Accept();
  EXPECT_EQ(Read().type, FrameType::kHello);
}

TEST_F(FrameLineTest, APingIsAnsweredWithItsCookie) {
  auto line = Line();
  Greet(line.get(), 0);
  Say(FrameType::kPing);
  ASSERT_TRUE(line->Wait(absl::Milliseconds(50), 0, &frames_).ok());
  EXPECT_EQ(Read().type, FrameType::kPong);
}

}  // namespace
}  // namespace muond
