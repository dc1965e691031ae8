// The real muond: start, restart, drain, refusals, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "proto/stubs/daemon_stub.h"
#include "tests/support/daemon_under_test.h"

namespace muond {
namespace {

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
  ScratchDirectory scratch;
  std::vector<std::string> argv = {MUOND_BINARY};
  argv.insert(argv.end(), flags.begin(), flags.end());
  ChildProcess process(argv, scratch / "out", scratch / "out");
  const int code = process.Wait();
  *output = ReadWhole(scratch / "out");
  return code;
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

}  // namespace
}  // namespace muond
