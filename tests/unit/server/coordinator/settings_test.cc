#include "server/coordinator/settings.h"

#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ErrorOf(const std::vector<std::string>& arguments,
                    const std::map<std::string, std::string>& environment = {}) {
  const auto read = ReadSettings(arguments, environment);
  return read.ok() ? "" : std::string(read.status().message());
}

TEST(SettingsTest, FlagsWinOverTheEnvironmentAndThatOverTheFile) {
  ScratchDirectory scratch;
  const std::string file = scratch / "c.yaml";
  std::ofstream(file) << "lease_ms: 1000\nlog_level: debug\nlisten: 127.0.0.1:1\n";
  const auto read = ReadSettings({"--lease-ms=3000"}, {{"MUOND_COORDINATOR_CONFIG", file},
                                                       {"MUOND_COORDINATOR_LEASE_MS", "2000"},
                                                       {"MUOND_COORDINATOR_LOG_LEVEL", "error"},
                                                       {"MUOND_COORDINATOR", "somebody's"},
                                                       {"MUOND_LOG_LEVEL", "the daemon's"}});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->action, Action::kRun);
  EXPECT_EQ(read->settings.lease, absl::Seconds(3));
  EXPECT_EQ(read->settings.log_level, "error");
  EXPECT_EQ(read->settings.listen, "127.0.0.1:1");
}

TEST(SettingsTest, UnknownNamesAreErrorsWithTheNearestKnownOne) {
  ScratchDirectory scratch;
  const std::string file = scratch / "c.yaml";
  std::ofstream(file) << "# a comment\nlisten: 127.0.0.1:1\nstroe: /tmp/x\n";
  EXPECT_THAT(ErrorOf({"--config", file}),
              AllOf(HasSubstr(file + ":3"), HasSubstr("stroe"), HasSubstr("known one is store")));
  EXPECT_THAT(ErrorOf({"--leese-ms=3"}), HasSubstr("--lease-ms"));
  // Nobody else uses this prefix, so nothing under it is overlooked.
  EXPECT_THAT(ErrorOf({}, {{"MUOND_COORDINATOR_WHATEVER", "1"}}),
              HasSubstr("MUOND_COORDINATOR_WHATEVER is no option"));
}

TEST(SettingsTest, ValuesThatCannotBeAreErrorsWithTheBounds) {
  EXPECT_THAT(ErrorOf({"--lease-ms=5"}), HasSubstr("from 100 to 3600000"));
  EXPECT_THAT(ErrorOf({"--listen=0.0.0.0:7000"}), HasSubstr("0.0.0.0"));
  EXPECT_THAT(ErrorOf({"--listen=unix:/" + std::string(200, 'x')}), HasSubstr("107"));
  EXPECT_THAT(ErrorOf({"--store=/nowhere/at/all.db"}), HasSubstr("folder is missing"));
  EXPECT_THAT(ErrorOf({"--config=/nowhere.yaml"}), HasSubstr("/nowhere.yaml"));
  EXPECT_THAT(ErrorOf({"--config=/tmp"}), HasSubstr("/tmp"));
  EXPECT_THAT(ErrorOf({"store.db"}), HasSubstr("\"store.db\""));
  EXPECT_THAT(ErrorOf({"--leader-ttl-s=1"}), HasSubstr("from 2 to 60"));
  EXPECT_THAT(ErrorOf({"--etcd-prefix=muond"}), HasSubstr("slash"));
  EXPECT_THAT(ErrorOf({"--metrics-listen=here"}), HasSubstr("HOST:PORT"));
}

TEST(SettingsTest, OptionsThatDoNotGoTogetherAreErrors) {
  EXPECT_THAT(ErrorOf({"--etcd=127.0.0.1:2379", "--store=/tmp/x.db"}), HasSubstr("exclude"));
  EXPECT_THAT(ErrorOf({"--etcd-tls-ca=/x"}), HasSubstr("etcd, whose they are"));
  EXPECT_THAT(ErrorOf({"--etcd=etcd-0:2379"}), HasSubstr("etcd_tls_ca"));
  EXPECT_THAT(ErrorOf({"--etcd=127.0.0.1:1,nothing"}), HasSubstr("'nothing'"));
  EXPECT_EQ(ErrorOf({"--etcd=127.0.0.1:1,127.0.0.1:2"}), "");
}

TEST(SettingsTest, WhatIsPrintedCanBeReadBack) {
  ScratchDirectory scratch;
  const auto printed = ReadSettings({"--print-config", "--lease-ms=700"}, {});
  ASSERT_TRUE(printed.ok()) << printed.status();
  EXPECT_EQ(printed->action, Action::kPrintConfig);
  EXPECT_THAT(printed->text, HasSubstr("lease_ms: \"700\"  # flag --lease-ms"));
  const std::string file = scratch / "c.yaml";
  std::ofstream(file) << printed->text;
  const auto read = ReadSettings({"--config", file}, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->settings.lease, absl::Milliseconds(700));
  EXPECT_EQ(read->settings.listen, printed->settings.listen);
}

}  // namespace
}  // namespace muond
