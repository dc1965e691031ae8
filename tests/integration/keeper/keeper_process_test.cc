// The keeper as a real process, with a stepper that keeps slabs and computes nothing.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/ipc_carrier.h"
#include "proto/carrier/ipc/slab_fetch.h"
#include "proto/carrier/ipc/unix_socket.h"
#include "server/keeper/keeper.h"
#include "tests/support/carrier_events.h"
#include "tests/support/child_process.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

class KeeperProcessTest : public ::testing::Test {
 protected:
  KeeperOptions Options(const std::string& mode, int slabs) {
    KeeperOptions options;
    options.socket_dir = directory_;
    options.executable = TEST_STEPPER;
    options.stepper_arguments = {"test_stepper", report_, mode, std::to_string(slabs)};
    options.drain_timeout = absl::Milliseconds(100);
    return options;
  }
  std::unique_ptr<ChildProcess> Start(const KeeperOptions& options) {
    return std::make_unique<ChildProcess>([&] {
      if (::freopen(log_.c_str(), "a", stderr) == nullptr) return 99;
      return RunKeeper(options);
    });
  }
  std::unique_ptr<ChildProcess> StartServing(const KeeperOptions& options, int times = 1) {
    auto keeper = Start(options);
    EXPECT_TRUE(Served(times)) << ReadWhole(log_);
    return keeper;
  }
  bool Served(int times) {
    return Eventually([&] { return CountOf(ReadWhole(report_), "serving\n") >= times; });
  }
  bool Reported(const std::string& line) {
    return Eventually([&] { return ReadWhole(report_).find(line) != std::string::npos; });
  }
  pid_t NewestStepper() {
    const std::string report = ReadWhole(report_);
    return std::stoi(report.substr(report.rfind(" pid ") + 5));
  }
  static size_t OpenDescriptors(pid_t pid) {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"))) {
      ++count;
    }
    return count;
  }

  ScratchDirectory scratch_;
  const std::string directory_ = scratch_ / "run";
  const std::string report_ = scratch_ / "report";
  const std::string log_ = scratch_ / "log";
};

class KeeperLifelineTest : public KeeperProcessTest,
                           public ::testing::WithParamInterface<const char*> {};

TEST_F(KeeperProcessTest, AKilledStepperIsFollowedByOneThatFinds300SlabsIntact) {
  auto keeper = StartServing(Options("serve", 300));
  for (int generation = 2; generation <= 4; ++generation) {
    ASSERT_EQ(::kill(NewestStepper(), SIGKILL), 0);
    EXPECT_TRUE(Reported(absl::StrCat("kept 300 intact 300 generation ", generation)))
        << ReadWhole(report_);
    ASSERT_TRUE(Served(generation));
  }
  EXPECT_THAT(ReadWhole(report_), HasSubstr("start --stepper-starts=4"));
}

TEST_F(KeeperProcessTest, TheDirectoryIsPrivateAndGoneAfterADrain) {
  auto keeper = StartServing(Options("serve", 1));
  struct stat info {};
  ASSERT_EQ(::stat(directory_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0700u);
  const pid_t stepper = NewestStepper();
  keeper->Signal(SIGTERM);
  EXPECT_EQ(keeper->Wait(), kExitOk) << ReadWhole(log_);
  EXPECT_THAT(ReadWhole(report_), HasSubstr("drain\n"));
  EXPECT_FALSE(Runs(stepper));
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_F(KeeperProcessTest, InterruptDrainsToo) {
  auto keeper = StartServing(Options("serve", 0));
  keeper->Signal(SIGINT);
  EXPECT_EQ(keeper->Wait(), kExitOk) << ReadWhole(log_);
}

TEST_F(KeeperProcessTest, AStepperThatDoesNotDrainIsCutOffAndTheExitCodeSaysSo) {
  auto keeper = StartServing(Options("never-drain", 2));
  keeper->Signal(SIGTERM);
  ASSERT_TRUE(Reported("drain\n"));
  keeper->Signal(SIGTERM);  // a second one does not wait for the time-out
  EXPECT_EQ(keeper->Wait(), kExitJobsCut);
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_F(KeeperProcessTest, AKilledKeeperTakesItsStepperAlongAndTheNextOneReplacesTheSockets) {
  auto keeper = StartServing(Options("serve", 3));
  const pid_t stepper = NewestStepper();
  keeper->Signal(SIGKILL);
  EXPECT_EQ(keeper->Wait(), -SIGKILL);
  EXPECT_TRUE(Eventually([&] { return !Runs(stepper); }));
  EXPECT_TRUE(
      std::filesystem::exists(directory_ + "/keeper.sock"));  // stale: nobody could remove it
  auto next = StartServing(Options("serve", 3), 2);
  EXPECT_EQ(CountOf(ReadWhole(report_), "kept "), 0);  // memory ended with its keeper
  next->Signal(SIGTERM);
  EXPECT_EQ(next->Wait(), kExitOk);
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_P(KeeperLifelineTest, ItsEndLetsTheStepperFinishAndEndsEverything) {
  auto lifeline = SeqpacketPair();
  ASSERT_TRUE(lifeline.ok());
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);  // as the spawner may have done
  KeeperOptions options = Options(GetParam(), 10);
  options.lifeline_fd = lifeline->second.get();
  options.remove_directory = true;
  const int ours = lifeline->first.get();
  ChildProcess keeper([&] {
    ::close(ours);
    if (::freopen(log_.c_str(), "a", stderr) == nullptr) return 99;
    return RunKeeper(options);
  });
  lifeline->second.Reset();
  ASSERT_TRUE(Served(1));
  const pid_t stepper = NewestStepper();
  lifeline->first.Reset();
  EXPECT_EQ(keeper.Wait(), kExitOk) << ReadWhole(log_);
  EXPECT_TRUE(Reported("finish\n"));
  EXPECT_FALSE(Runs(stepper));
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

// Also one that does not: it is killed after a grace.
INSTANTIATE_TEST_SUITE_P(Steppers, KeeperLifelineTest, testing::Values("serve", "never-drain"));

TEST_F(KeeperProcessTest, TheSpawnerIsToldWhenItServes) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  KeeperOptions options = Options("serve", 0);
  options.ready_fd = pipe[1];
  auto keeper = Start(options);
  ::close(pipe[1]);
  char text[16] = {};
  EXPECT_EQ(::read(pipe[0], text, sizeof(text)), 6);
  EXPECT_STREQ(text, "ready\n");
  EXPECT_EQ(::read(pipe[0], text, sizeof(text)), 0);  // closed: the stepper does not hold it either
  ::close(pipe[0]);
}

TEST_F(KeeperProcessTest, ASecondDaemonInOneDirectoryIsRefusedWithThePidOfTheFirst) {
  auto keeper = StartServing(Options("serve", 0));
  auto second = Start(Options("serve", 0));
  EXPECT_EQ(second->Wait(), kExitCannotStart);
  EXPECT_THAT(ReadWhole(log_), HasSubstr(absl::StrCat("pid ", keeper->pid())));
  EXPECT_TRUE(Runs(NewestStepper()));
  EXPECT_TRUE(
      ConnectSeqpacket(directory_ + "/frames.sock").ok());  // the first one's sockets are untouched
}

TEST_F(KeeperProcessTest, WhatIsInTheWayIsNamed) {
  ASSERT_EQ(::mkdir(directory_.c_str(), 0700), 0);
  std::ofstream(directory_ + "/keeper.sock") << "not a socket";
  EXPECT_EQ(Start(Options("serve", 0))->Wait(), kExitCannotStart);
  EXPECT_THAT(ReadWhole(log_), HasSubstr("no socket"));
  EXPECT_EQ(ReadWhole(directory_ + "/keeper.sock"), "not a socket");

  ASSERT_EQ(::chmod(directory_.c_str(), 0777), 0);
  EXPECT_EQ(Start(Options("serve", 0))->Wait(), kExitCannotStart);
  EXPECT_THAT(ReadWhole(log_), HasSubstr("0777"));

  KeeperOptions too_long = Options("serve", 0);
  too_long.socket_dir = scratch_ / std::string(100, 'x');
  EXPECT_EQ(Start(too_long)->Wait(), kExitCannotStart);
  EXPECT_THAT(ReadWhole(log_), HasSubstr("107"));
}

TEST_F(KeeperProcessTest, AStepperThatNeverServesIsGivenUpAfterSixTries) {
  auto keeper = Start(Options("die-at-start", 0));
  EXPECT_EQ(keeper->Wait(), kExitStepperDies);
  EXPECT_EQ(CountOf(ReadWhole(report_), "start "), 6);
  EXPECT_FALSE(std::filesystem::exists(directory_));
}

TEST_F(KeeperProcessTest, AStepperThatSaysWhyItCannotStartIsNotTriedAgain) {
  auto keeper = Start(Options("fail-at-start", 0));
  EXPECT_EQ(keeper->Wait(), kExitCannotStart);
  EXPECT_EQ(CountOf(ReadWhole(report_), "start "), 1);
}

TEST_F(KeeperProcessTest, ARankGetsItsDescriptorsAlsoWhileNoStepperRuns) {
  auto keeper = StartServing(Options("serve", 300));
  ::kill(NewestStepper(), SIGSTOP);
  auto fetch = SlabFetch::Open(directory_ + "/keeper.sock", 42, 5000);
  ASSERT_TRUE(fetch.ok()) << fetch.status();
  ASSERT_EQ((*fetch)->slabs().size(), 300u);
  for (uint64_t i = 0; i < 300; ++i) {
    uint64_t content = 0;
    const DescriptorMessage& slab = (*fetch)->slabs()[i];
    ASSERT_EQ(::pread(slab.descriptor.get(), &content, sizeof(content), 0), 8);
    EXPECT_EQ(content, (i + 1) * 1'000'003);
    EXPECT_EQ(slab.message.size_bytes, 4096u);
  }
  EXPECT_FALSE((*fetch)->keeper_gone());
  ::kill(NewestStepper(), SIGCONT);
  keeper->Signal(SIGKILL);
  keeper->Wait();
  EXPECT_TRUE(Eventually([&] { return (*fetch)->keeper_gone(); }));
}

TEST_F(KeeperProcessTest, AWrongSessionGetsNothing) {
  auto keeper = StartServing(Options("serve", 2));
  const auto fetch = SlabFetch::Open(directory_ + "/keeper.sock", 43, 5000);
  EXPECT_EQ(fetch.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_TRUE(SlabFetch::Open(directory_ + "/keeper.sock", 42, 5000).ok());
}

TEST_F(KeeperProcessTest, TheStepperLearnsOfADeadRankAlsoAfterItsOwnDeath) {
  auto keeper = StartServing(Options("serve", 1));
  auto fetch = SlabFetch::Open(directory_ + "/keeper.sock", 42, 5000);
  ASSERT_TRUE(fetch.ok());
  fetch->reset();
  ASSERT_TRUE(Reported("gone 42\n"));
  ::kill(NewestStepper(), SIGKILL);
  ASSERT_TRUE(Served(2));
  EXPECT_TRUE(Eventually([&] { return CountOf(ReadWhole(report_), "gone 42\n") == 2; }));
}

TEST_F(KeeperProcessTest, FramesSentDuringARestartReachTheSuccessor) {
  auto keeper = StartServing(Options("serve", 1));
  const pid_t first = NewestStepper();
  ::kill(first, SIGSTOP);  // it accepts nothing any more
  auto client = ConnectIpc(directory_ + "/frames.sock");
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->carrier->Send(client->peer, PingFrame(11)).ok());
  ::kill(first, SIGKILL);
  const auto events = TakeEvents(*client->carrier, 1);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, CarrierEventKind::kFrame);
  EXPECT_EQ(events[0].frame.value, 11u);
}

TEST_F(KeeperProcessTest, RestartsAndFetchesLeakNoDescriptor) {
  auto keeper = StartServing(Options("serve", 40));
  // Whoever has fetched knows that the keeper has read what the stepper kept; the connection itself is one descriptor.
  auto fetched = SlabFetch::Open(directory_ + "/keeper.sock", 42, 5000);
  ASSERT_TRUE(fetched.ok()) << fetched.status();
  const size_t before = OpenDescriptors(keeper->pid()) - 1;
  fetched->reset();
  for (int round = 1; round <= 10; ++round) {
    for (int i = 0; i < 5; ++i) {
      ASSERT_TRUE(SlabFetch::Open(directory_ + "/keeper.sock", 42, 5000).ok());
      ASSERT_FALSE(SlabFetch::Open(directory_ + "/keeper.sock", 1 + i, 5000).ok());
    }
    ::kill(NewestStepper(), SIGKILL);
    ASSERT_TRUE(Served(round + 1));
  }
  EXPECT_TRUE(Eventually([&] { return OpenDescriptors(keeper->pid()) == before; }))
      << before << " before, " << OpenDescriptors(keeper->pid()) << " after";
}

}  // namespace
}  // namespace muond
