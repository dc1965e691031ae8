// What a daemon keeps in its state directory, and what happens when it cannot.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <filesystem>
#include <fstream>

#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/daemon_stub.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/real_job.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

namespace fs = std::filesystem;
using ::muond::testing::RealJob;
using ::testing::AllOf;
using ::testing::HasSubstr;

StubOptions Patient() {
  StubOptions options;
  options.wait_for_ready = true;
  return options;
}
std::string IdOf(const DaemonUnderTest& daemon) {
  const auto status = (*DaemonStub::Create(daemon.endpoint(), Patient()))->GetStatus();
  EXPECT_TRUE(status.ok()) << status.status();
  return status.ok() ? status->daemon : "";
}
ClusterStatus ClusterOf(const DaemonUnderTest& daemon) {
  const auto cluster = (*CoordinatorStub::Create(daemon.endpoint(), Patient()))->GetCluster();
  EXPECT_TRUE(cluster.ok()) << cluster.status();
  return cluster.ok() ? *cluster : ClusterStatus();
}

// A disk of a few pages.
class TinyDisk {
 public:
  explicit TinyDisk(std::string path) : path_(std::move(path)) {
    fs::create_directory(path_);
    mounted_ = ::mount("muond-test", path_.c_str(), "tmpfs", 0, "size=256k,mode=0700") == 0;
  }
  ~TinyDisk() {
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
  }
  bool mounted() const { return mounted_; }
  void Fill() {
    std::ofstream file(path_ + "/ballast", std::ios::binary | std::ios::app);
    while (file.write(std::string(4096, 'x').data(), 4096).flush()) {
    }
  }
  void Free() { fs::remove(path_ + "/ballast"); }

 private:
  const std::string path_;
  bool mounted_ = false;
};

TEST(StateDirectoryTest, ADaemonKeepsItsIdAndForgetsTheJobsThatDiedWithIt) {
  ScratchDirectory scratch;
  const std::string flag = "--state-dir=" + (scratch / "state");  // made by the daemon
  std::string id;
  uint64_t epoch = 0;
  {
    DaemonUnderTest daemon(MUOND_BINARY, {flag});
    ASSERT_TRUE(daemon.Serves()) << daemon.log();
    id = IdOf(daemon);
    auto job = RealJob::Attach(daemon.endpoint(), "job");
    ASSERT_TRUE(job.ok()) << job.status();
    epoch = (*job)->rank(0).info().epoch;
    daemon.process().Signal(SIGKILL);  // the keeper: the job's state is lost with it
    daemon.process().Wait();
  }
  DaemonUnderTest next(MUOND_BINARY, {flag});
  ASSERT_TRUE(next.Serves()) << next.log();
  EXPECT_EQ(IdOf(next), id);
  EXPECT_TRUE(ClusterOf(next).jobs.empty());
  auto again = RealJob::Attach(next.endpoint(), "job");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_GT((*again)->rank(0).info().epoch, epoch) << "epochs are never used twice";
}

TEST(StateDirectoryTest, WithoutOneTheCatalogueOutlivesTheStepperAndEndsWithTheDaemon) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--standalone"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  const ClusterStatus before = ClusterOf(daemon);
  ASSERT_EQ(before.jobs.size(), 1u);
  ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
  ASSERT_TRUE(daemon.Serves(2)) << daemon.log();
  const ClusterStatus after = ClusterOf(daemon);
  ASSERT_EQ(after.jobs.size(), 1u);
  EXPECT_EQ(after.jobs[0].job, before.jobs[0].job);
  EXPECT_EQ(after.daemons[0].daemon, before.daemons[0].daemon);
  EXPECT_TRUE((*job)->Steps(2).ok());
  EXPECT_TRUE(fs::exists(daemon.directory() + "/coordinator.db"));
  ASSERT_TRUE((*job)->Leave().ok());  // a standalone daemon ends with its last job
  EXPECT_EQ(daemon.process().Wait(), 0) << daemon.log();
  EXPECT_FALSE(fs::exists(daemon.directory()));
}

TEST(StateDirectoryTest, TwoDaemonsDoNotShareOne) {
  ScratchDirectory scratch;
  const std::string flag = "--state-dir=" + (scratch / "state");
  DaemonUnderTest daemon(MUOND_BINARY, {flag});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const Ran second = RunProgram({MUOND_BINARY, "--backend=cpu", "--metrics-listen=off", flag,
                                 "--socket-dir=" + (scratch / "run")});
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.err, AllOf(HasSubstr("another daemon"), HasSubstr("state/daemon.id")));
  EXPECT_FALSE(IdOf(daemon).empty());
}

TEST(StateDirectoryTest, WhatIsBrokenThereIsAStartErrorThatNamesTheFile) {
  ScratchDirectory scratch;
  for (const char* file : {"daemon.id", "coordinator.db"}) {
    const std::string folder = scratch / std::string("of-") + file;
    fs::create_directory(folder);
    std::ofstream(folder + "/" + file) << std::string(5000, 'z');
    const Ran ran = RunProgram({MUOND_BINARY, "--backend=cpu", "--metrics-listen=off",
                                "--socket-dir=" + (scratch / "run"), "--state-dir=" + folder});
    EXPECT_EQ(ran.code, 1) << file;
    EXPECT_THAT(ran.err, HasSubstr(folder + "/" + file));
    EXPECT_EQ(CountOf(ran.err, "stepper.started"), 1) << "a broken file is no better at once";
    EXPECT_EQ(fs::file_size(folder + "/" + file), 5000u) << "and is not overwritten";
  }
}

TEST(StateDirectoryTest, ABrokenCatalogueCostsARunningJobNothing) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE((*job)->Steps(2).ok());
  ASSERT_EQ(::kill(daemon.stepper(), SIGSTOP), 0);
  const std::string store = daemon.directory() + "/coordinator.db";
  for (const char* ending : {"", "-wal"}) {
    std::error_code ignored;
    fs::remove(store + ending, ignored);
  }
  std::ofstream(store) << std::string(5000, 'z');
  ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
  EXPECT_TRUE((*job)->Steps(3).ok());
  EXPECT_THAT(daemon.log(), AllOf(HasSubstr("coordinator.store_lost"), HasSubstr(store)));
}

TEST(StateDirectoryTest, AFullDiskRefusesNewJobsAndStopsNoStep) {
  ScratchDirectory scratch;
  TinyDisk disk(scratch / "state");
  if (!disk.mounted()) GTEST_SKIP() << "a tmpfs cannot be mounted here: " << strerror(errno);
  DaemonUnderTest daemon(MUOND_BINARY, {"--state-dir=" + (scratch / "state")});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  disk.Fill();
  // What the write-ahead log still has room for is granted; then the disk is full.
  absl::Status refused;
  std::vector<std::unique_ptr<RealJob>> granted;
  for (int i = 0; i < 100 && refused.ok(); ++i) {
    auto more = RealJob::Attach(daemon.endpoint(), "more-" + std::to_string(i));
    refused = more.status();
    if (more.ok()) granted.push_back(*std::move(more));
    disk.Fill();
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("full"));
  EXPECT_TRUE((*job)->Steps(3).ok());
  ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
  ASSERT_TRUE(daemon.Serves(2)) << daemon.log();
  EXPECT_TRUE((*job)->Steps(3).ok());
  disk.Free();
  auto after = RealJob::Attach(daemon.endpoint(), "after");
  EXPECT_TRUE(after.ok()) << after.status();
}

TEST(StateDirectoryTest, AFullDiskAtTheStartIsAStartError) {
  ScratchDirectory scratch;
  TinyDisk disk(scratch / "state");
  if (!disk.mounted()) GTEST_SKIP() << "a tmpfs cannot be mounted here: " << strerror(errno);
  disk.Fill();
  const Ran ran =
      RunProgram({MUOND_BINARY, "--backend=cpu", "--metrics-listen=off",
                  "--socket-dir=" + (scratch / "run"), "--state-dir=" + (scratch / "state")});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, AllOf(HasSubstr(scratch / "state"), HasSubstr("full")));
}

}  // namespace
}  // namespace muond
