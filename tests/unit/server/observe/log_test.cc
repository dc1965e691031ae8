#include "server/observe/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace muond {
namespace {

const absl::Time kNow = absl::FromUnixMicros(1'767'225'600'123'456);

TEST(LogTest, ATextLineHasTimeSeverityEventAndFields) {
  EXPECT_EQ(
      FormatLogLine(
          LogFormat::kText, kNow, Severity::kInfo, "stepper.started",
          {{"pid", 4711}, {"ratio", 0.5}, {"ready", true}, {"how", "signal 9"}, {"name", "a"}}),
      "2026-01-01T00:00:00.123456Z INFO  stepper.started pid=4711 ratio=0.5 ready=true "
      "how=\"signal 9\" name=a");
}

TEST(LogTest, AJsonLineEscapesWhatJsonForbids) {
  EXPECT_EQ(FormatLogLine(LogFormat::kJson, kNow, Severity::kError, "x.y",
                          {{"text", std::string_view("a\"b\\c\n\x01")},
                           {"nan", std::nan("")},
                           {"big", std::numeric_limits<uint64_t>::max()}}),
            "{\"time\":\"2026-01-01T00:00:00.123456Z\",\"severity\":\"error\",\"event\":\"x.y\","
            "\"text\":\"a\\\"b\\\\c\\n\\u0001\",\"nan\":null,\"big\":18446744073709551615}");
}

TEST(LogTest, ALineCannotBeForgedThroughAField) {
  const std::string line = FormatLogLine(LogFormat::kText, kNow, Severity::kInfo, "job.joined",
                                         {{"name", "x\n2026 ERROR fake"}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
}

TEST(LogTest, UnknownNamesAreRefusedWithTheKnownOnes) {
  EXPECT_EQ(*ParseSeverity("warning"), Severity::kWarning);
  EXPECT_EQ(*ParseLogFormat("json"), LogFormat::kJson);
  EXPECT_THAT(std::string(ParseSeverity("loud").status().message()),
              ::testing::HasSubstr("warning"));
  EXPECT_THAT(std::string(ParseLogFormat("xml").status().message()), ::testing::HasSubstr("json"));
}

TEST(LogDeathTest, ACheckThatFailsNamesTheConditionAndAborts) {
  const int two = 2;
  EXPECT_DEATH(MUOND_CHECK(two == 3), "two == 3");
  EXPECT_DEATH(MUOND_CHECK_OK(absl::NotFoundError("slab 7")), "slab 7");
}

}  // namespace
}  // namespace muond
