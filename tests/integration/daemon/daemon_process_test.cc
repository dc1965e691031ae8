// The real muond: start, restart, drain, refusals, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "proto/stubs/daemon_stub.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/real_job.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

using ::muond::testing::RealJob;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::unique_ptr<DaemonStub> StubOf(const DaemonUnderTest& daemon) {
  StubOptions options;
  options.wait_for_ready = true;
  auto stub = DaemonStub::Create(daemon.endpoint(), options);
  EXPECT_TRUE(stub.ok()) << stub.status();
  return *std::move(stub);
}

// Runs muond to its end; what it wrote to both outputs.
int RunToEnd(const std::vector<std::string>& flags, std::string* output) {
  std::vector<std::string> argv = {MUOND_BINARY};
  argv.insert(argv.end(), flags.begin(), flags.end());
  const Ran ran = RunProgram(argv);
  *output = ran.out + ran.err;
  return ran.code;
}

TEST(DaemonProcessTest, StatusTellsPidsDevicesAndVersion) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--cpu-devices=3"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const auto status = StubOf(daemon)->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->keeper_pid, daemon.process().pid());
  EXPECT_EQ(status->stepper_pid, daemon.stepper());
  EXPECT_EQ(status->devices.size(), 3u);
  EXPECT_EQ(status->devices[2].device.memory_bytes, 256u << 20);
  EXPECT_EQ(status->stepper_starts, 1u);
  EXPECT_EQ(status->metrics_endpoint, daemon.metrics());
  EXPECT_FALSE(status->version.build.empty());
}

TEST(DaemonProcessTest, AKilledStepperIsBackOnTheSameSocketsAndCallsGoOn) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const auto stub = StubOf(daemon);
  ASSERT_TRUE(stub->GetStatus().ok());
  for (uint32_t starts = 2; starts <= 4; ++starts) {
    const pid_t dead = daemon.stepper();
    ASSERT_EQ(::kill(dead, SIGKILL), 0);
    ASSERT_TRUE(daemon.Serves(static_cast<int>(starts))) << daemon.log();
    // The stub's connection broke with the stepper; a call may notice that first.
    EXPECT_TRUE(Eventually([&] {
      const auto status = stub->GetStatus();
      return status.ok() && status->stepper_starts == starts && status->stepper_pid != dead;
    })) << daemon.log();
  }
}

TEST(DaemonProcessTest, DrainEndsWithZeroAndLeavesNothing) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const pid_t stepper = daemon.stepper();
  daemon.process().Signal(SIGTERM);
  EXPECT_EQ(daemon.process().Wait(), 0) << daemon.log();
  EXPECT_FALSE(Runs(stepper));
  EXPECT_FALSE(std::filesystem::exists(daemon.directory()));
  EXPECT_THAT(daemon.log(), HasSubstr("daemon.drained jobs_left=0"));
}

TEST(DaemonProcessTest, AKilledDaemonLeavesAStaleSocketThatTheNextOneReplaces) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const pid_t stepper = daemon.stepper();
  daemon.process().Signal(SIGKILL);
  EXPECT_EQ(daemon.process().Wait(), -SIGKILL);
  EXPECT_TRUE(Eventually([&] { return !Runs(stepper); }));
  ASSERT_TRUE(std::filesystem::exists(daemon.directory() + "/keeper.sock"));
  ChildProcess next(
      {MUOND_BINARY, "--backend=cpu", "--metrics-listen=off", "--socket-dir=" + daemon.directory()},
      daemon.log_path());
  EXPECT_TRUE(Eventually([&] { return CountOf(daemon.log(), "stepper.serving") == 2; }))
      << daemon.log();
  EXPECT_TRUE(StubOf(daemon)->GetStatus().ok());
}

TEST(DaemonProcessTest, AFailPointKillsTheFirstStepperOnly) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--fail-point=before_serving:1"});
  EXPECT_TRUE(daemon.Logged("stepper.died how=\"signal 9\"")) << daemon.log();
  EXPECT_TRUE(daemon.Logged("stepper.serving")) << daemon.log();
  EXPECT_EQ(StubOf(daemon)->GetStatus()->stepper_starts, 2u);
}

TEST(DaemonProcessTest, JsonLogsAreJson) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--log-format=json"});
  ASSERT_TRUE(daemon.Logged("\"event\":\"stepper.serving\"")) << daemon.log();
  std::ifstream lines(daemon.log_path());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_EQ(line.front(), '{') << line;
    EXPECT_EQ(line.back(), '}') << line;
  }
}

TEST(DaemonProcessTest, ExitCodesTellAStartThatCannotBeFromAWrongCall) {
  std::string output;
  EXPECT_EQ(RunToEnd({"--cpu-devces=2"}, &output), 2);
  EXPECT_THAT(output, HasSubstr("--cpu-devices"));
  EXPECT_EQ(RunToEnd({"--check-config", "--log-level=loud"}, &output), 2);
  EXPECT_EQ(RunToEnd({"--check-config"}, &output), 0);
  EXPECT_EQ(RunToEnd({"--socket-dir=/nowhere/at/all"}, &output), 1);
  EXPECT_THAT(output, HasSubstr("/nowhere/at/all"));
  ScratchDirectory scratch;
  const std::string long_path = scratch / std::string(120, 'x');
  EXPECT_EQ(RunToEnd({"--socket-dir=" + long_path}, &output), 1);
  EXPECT_THAT(output, HasSubstr("107"));
}

TEST(DaemonProcessTest, ATakenMetricsPortIsAStartErrorNotALoop) {
  DaemonUnderTest first(MUOND_BINARY);
  ASSERT_TRUE(first.Serves()) << first.log();
  std::string output;
  ScratchDirectory scratch;
  EXPECT_EQ(RunToEnd({"--backend=cpu", "--socket-dir=" + (scratch / "run"),
                      "--metrics-listen=" + first.metrics()},
                     &output),
            1);
  EXPECT_THAT(output, HasSubstr(first.metrics()));
  EXPECT_EQ(CountOf(output, "stepper.started"), 1);
}

TEST(DaemonProcessTest, TwoDaemonsInOneDirectoryAreRefused) {
  DaemonUnderTest first(MUOND_BINARY);
  ASSERT_TRUE(first.Serves()) << first.log();
  std::string output;
  EXPECT_EQ(RunToEnd({"--socket-dir=" + first.directory()}, &output), 1);
  EXPECT_THAT(output, HasSubstr(absl::StrCat("pid ", first.process().pid())));
  EXPECT_TRUE(StubOf(first)->GetStatus().ok());
}

TEST(DaemonProcessTest, MetricsStayWhereTheyAreWhenTheStepperIsAnother) {
  DaemonUnderTest daemon(MUOND_BINARY);  // asks for port 0
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const std::string address = daemon.metrics();
  for (int starts = 2; starts <= 4; ++starts) {
    ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
    ASSERT_TRUE(daemon.Serves(starts)) << daemon.log();
    EXPECT_EQ(StubOf(daemon)->GetStatus()->metrics_endpoint, address);
  }
}

TEST(DaemonProcessTest, ASocketNameThatIsTakenByAFileIsAStartErrorAndTheFileStays) {
  ScratchDirectory scratch;
  std::filesystem::create_directory(scratch / "run");
  std::filesystem::permissions(scratch / "run", std::filesystem::perms::owner_all);
  std::ofstream(scratch / "run/grpc.sock") << "mine";
  std::string output;
  EXPECT_EQ(RunToEnd({"--backend=cpu", "--socket-dir=" + (scratch / "run")}, &output), 1);
  EXPECT_THAT(output, AllOf(HasSubstr("run/grpc.sock"), HasSubstr("no socket")));
  EXPECT_EQ(ReadWhole(scratch / "run/grpc.sock"), "mine");
}

TEST(DaemonProcessTest, SigtermLetsARunningJobGoOnAndEndsWithIt) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--drain-timeout-s=60"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  daemon.process().Signal(SIGTERM);
  ASSERT_TRUE(daemon.Logged("daemon.draining"));
  EXPECT_TRUE((*job)->Steps(5).ok());
  EXPECT_EQ(RealJob::Attach(daemon.endpoint(), "new").status().code(),
            absl::StatusCode::kUnavailable);
  // A stepper that dies while it drains is followed by one that drains.
  ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
  EXPECT_TRUE((*job)->Steps(5).ok());
  ASSERT_TRUE((*job)->Leave().ok());
  EXPECT_EQ(daemon.process().Wait(), 0) << daemon.log();
}

TEST(DaemonProcessTest, ADrainThatTakesTooLongCutsJobsOffAndSaysSo) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--drain-timeout-s=0.3"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  daemon.process().Signal(SIGTERM);
  EXPECT_EQ(daemon.process().Wait(), 4) << daemon.log();
  EXPECT_THAT(daemon.log(), HasSubstr("jobs_left=1"));
  EXPECT_EQ((*job)->Steps(1).code(), absl::StatusCode::kUnavailable);
}

TEST(DaemonProcessTest, AJobThatDoesNotFitIsRefusedWithTheBytesAndLeavesNothing) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--cpu-memory-bytes=16KiB"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const absl::Status status = RealJob::Attach(daemon.endpoint(), "job").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("bytes"), HasSubstr("16384")));
  const auto after = StubOf(daemon)->GetStatus();
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_EQ(after->devices[0].device.memory_free_bytes, 16384u);
}

std::vector<float> Momentum(RealJob& job) {
  std::vector<float> values(24 * 16);
  const absl::Status fetched = job.rank(0).FetchState(0, StateField::kMomentum, values.data(),
                                                      values.size() * sizeof(float));
  EXPECT_TRUE(fetched.ok()) << fetched;
  return values;
}

TEST(DaemonProcessTest, APushThatADyingStepperCutsOffIsDoneAgain) {
  DaemonUnderTest daemon(MUOND_BINARY, {"--fail-point=after_write_state:1,after_write_state:2"});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE((*job)->Steps(2).ok());
  std::vector<float> values(24 * 16);
  for (int push = 1; push <= 3; ++push) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(push * 1000 + i);
    const absl::Status pushed = (*job)->rank(0).PushState(0, StateField::kMomentum, values.data(),
                                                          values.size() * sizeof(float));
    ASSERT_TRUE(pushed.ok()) << pushed;
    EXPECT_EQ(Momentum(**job), values);
  }
  EXPECT_EQ(CountOf(daemon.log(), "stepper.died"), 2);
  EXPECT_TRUE((*job)->Steps(2).ok());
}

TEST(DaemonProcessTest, StateThatWasBeingLoadedIsNotAdopted) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const std::vector<float> values(24 * 16, 1.0f);
  const auto load = [&](RealJob& job) {
    return job.rank(0).PushState(0, StateField::kMomentum, values.data(),
                                 values.size() * sizeof(float));
  };
  const auto orphaned = [&] {
    return Eventually([&] {
      const auto status = StubOf(daemon)->GetStatus();
      return status.ok() && status->jobs.size() == 1 && status->jobs[0].state == "orphaned";
    });
  };
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE((*job)->Steps(1).ok());
  ASSERT_TRUE(load(**job).ok());
  ASSERT_TRUE((*job)->Steps(1).ok());  // the load is over: the ranks went on
  (*job)->Die();
  ASSERT_TRUE(orphaned()) << daemon.log();
  job = RealJob::Attach(daemon.endpoint(), "job", 1, /*adopt=*/true);
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE(load(**job).ok());
  (*job)->Die();
  ASSERT_TRUE(orphaned()) << daemon.log();
  for (int starts = 2; starts <= 3; ++starts) {
    const absl::Status refused =
        RealJob::Attach(daemon.endpoint(), "job", 1, /*adopt=*/true).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("restore the state"));
    ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);  // a successor knows it, too
    ASSERT_TRUE(daemon.Serves(starts)) << daemon.log();
  }
  EXPECT_TRUE(RealJob::Attach(daemon.endpoint(), "job").ok());
}

}  // namespace
}  // namespace muond
