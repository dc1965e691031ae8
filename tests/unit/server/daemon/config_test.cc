#include "server/daemon/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::vector<std::string>& flags,
                    const std::map<std::string, std::string>& environment = {}) {
  return std::string(ReadConfig(flags, environment).status().message());
}

TEST(ConfigTest, FlagsWinOverEnvironmentOverFile) {
  ScratchDirectory scratch;
  std::ofstream(scratch / "c.yaml") << "cpu_devices: 2\njob_lease_s: 1.5\nlog_format: json\n";
  const auto read = ReadConfig({"--config", scratch / "c.yaml", "--cpu-devices=4"},
                               {{"MUOND_CPU_DEVICES", "3"}, {"MUOND_LOG_FORMAT", "text"}});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->config.cpu_devices, 4);
  EXPECT_EQ(read->config.log_format, "text");
  EXPECT_EQ(read->config.job_lease, absl::Milliseconds(1500));
}

TEST(ConfigTest, TheDefaultDirectoryIsTheUsersRuntimeDirectory) {
  EXPECT_EQ(ReadConfig({}, {{"XDG_RUNTIME_DIR", "/run/user/7"}})->config.socket_dir,
            "/run/user/7/muond");
  EXPECT_THAT(ReadConfig({}, {})->config.socket_dir, HasSubstr("/tmp/muond-"));
}

TEST(ConfigTest, TheStepperGetsEveryValueAndReadsNothingElse) {
  ScratchDirectory scratch;
  std::ofstream(scratch / "c.yaml") << "cpu_devices: 2\nstep_seconds_buckets: [0.001, 0.01]\n";
  const auto keeper =
      ReadConfig({"--config=" + (scratch / "c.yaml"), "--standalone", "--arena-share=0.25"},
                 {{"XDG_RUNTIME_DIR", "/run/user/7"}});
  ASSERT_TRUE(keeper.ok()) << keeper.status();
  auto flags = keeper->stepper_flags;
  flags.push_back("--stepper-starts=3");
  std::ofstream(scratch / "c.yaml") << "rubbish";
  const auto stepper =
      ReadConfig(flags, {{"MUOND_CPU_DEVICES", "7"}, {"MUOND_CONFIG", scratch / "c.yaml"}});
  ASSERT_TRUE(stepper.ok()) << stepper.status();
  EXPECT_EQ(stepper->config.cpu_devices, 2);
  EXPECT_EQ(stepper->config.step_seconds_buckets, "0.001,0.01");
  EXPECT_EQ(stepper->config.socket_dir, "/run/user/7/muond");
  EXPECT_EQ(stepper->config.arena_share, 0.25);
  EXPECT_TRUE(stepper->config.standalone);
  EXPECT_TRUE(stepper->config.stepper);
  EXPECT_EQ(stepper->config.stepper_starts, 3u);
}

TEST(ConfigTest, NothingButMetricsListensBeyondThisMachine) {
  EXPECT_THAT(ErrorOf({"--listen-tcp=0.0.0.0:80"}), HasSubstr("0.0.0.0"));
  EXPECT_THAT(ErrorOf({"--listen-tcp=192.168.0.1:80"}), HasSubstr("plain_tcp"));
  EXPECT_TRUE(ReadConfig({"--metrics-listen=0.0.0.0:80"}, {}).ok());
  EXPECT_THAT(ErrorOf({"--metrics-listen=0.0.0.0:70000"}), HasSubstr("65535"));
  EXPECT_THAT(ErrorOf({"--metrics-listen=:80"}), HasSubstr("HOST:PORT"));
  EXPECT_THAT(ErrorOf({"--metrics-listen=9478"}), HasSubstr("HOST:PORT"));
  EXPECT_THAT(ErrorOf({"--listen-tcp=127.0.0.1:70000"}), HasSubstr("65535"));
  EXPECT_TRUE(ReadConfig({"--listen-tcp=127.0.0.1:0", "--metrics-listen=localhost:9000"}, {}).ok());
}

TEST(ConfigTest, ValuesThatContradictEachOtherAreRefused) {
  EXPECT_THAT(ErrorOf({"--standalone", "--coordinator=10.0.0.1:1"}), HasSubstr("10.0.0.1:1"));
  EXPECT_THAT(ErrorOf({"--lifeline-fd=5", "--ready-fd=5"}), HasSubstr("5"));
}

TEST(ConfigTest, AnInvalidBucketOverrideIsAnError) {
  for (const char* bad : {"1,1", "2,1", "0", "-1", "a", "1,,2", "nan", "inf"}) {
    EXPECT_FALSE(ReadConfig({std::string("--step-seconds-buckets=") + bad}, {}).ok()) << bad;
  }
  EXPECT_THAT(*ParseBuckets("0.5,1,2"), ::testing::ElementsAre(0.5, 1, 2));
}

TEST(ConfigTest, AFileThatIsNotThereIsAnErrorWithItsName) {
  EXPECT_THAT(ErrorOf({"--config=/nowhere/muond.yaml"}), HasSubstr("/nowhere/muond.yaml"));
  EXPECT_THAT(ErrorOf({}, {{"MUOND_CONFIG", "/nowhere/else.yaml"}}),
              HasSubstr("/nowhere/else.yaml"));
}

TEST(ConfigTest, HelpNamesEveryOptionWithItsDefault) {
  const auto help = ReadConfig({"--help"}, {});
  ASSERT_TRUE(help.ok());
  for (const char* text :
       {"--socket-dir", "--cpu-devices COUNT  (default: 1)", "--drain-timeout-s", "exit codes"}) {
    EXPECT_THAT(help->text, HasSubstr(text));
  }
  EXPECT_EQ(help->text.find("--stepper"), std::string::npos);
}

TEST(ConfigTest, WhatIsPrintedCanBeReadBack) {
  ScratchDirectory scratch;
  const auto printed = ReadConfig({"--print-config", "--cpu-devices=5", "--log-level=debug"}, {});
  ASSERT_TRUE(printed.ok());
  std::ofstream(scratch / "c.yaml") << printed->text;
  const auto read = ReadConfig({"--config=" + (scratch / "c.yaml")}, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->config.cpu_devices, 5);
  EXPECT_EQ(read->config.log_level, "debug");
}

}  // namespace
}  // namespace muond
