#include "server/observe/http_door.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "server/observe/status_page.h"

namespace muond {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

StatusReport Report() {
  StatusReport report;
  report.version = "1.2.3";
  report.keeper_pid = 4;
  JobReport job;
  job.name = "<script>alert(1)</script>";
  job.job_id = 18446744073709551615u;
  job.step = 12;
  job.ranks = {{0, 100, RankState::kAttached, 0.25}};
  job.phases = {{"gather", 0.001, 0.002}, {"execute", 0.004, 0.005}};
  report.jobs = {job};
  return report;
}

class HttpDoorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HttpDoorOptions options;
    options.exposition = [] { return std::string("muond_up 1\n"); };
    options.status = [this] { return report_; };
    auto door = HttpDoor::Open(options);
    ASSERT_TRUE(door.ok()) << door.status();
    door_ = *std::move(door);
  }
  httplib::Result Get(const std::string& path) {
    return httplib::Client("http://" + door_->endpoint()).Get(path);
  }
  std::optional<StatusReport> report_ = Report();
  std::unique_ptr<HttpDoor> door_;
};

TEST_F(HttpDoorTest, ServesMetricsAndProbes) {
  EXPECT_EQ(Get("/metrics")->body, "muond_up 1\n");
  EXPECT_THAT(Get("/metrics")->get_header_value("Content-Type"), HasSubstr("version=0.0.4"));
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_EQ(Get("/readyz")->status, 200);
  EXPECT_EQ(Get("/nothing")->status, 404);
  EXPECT_EQ(
      httplib::Client("http://" + door_->endpoint()).Post("/metrics", "x", "text/plain")->status,
      404);
}

TEST_F(HttpDoorTest, BeyondThisMachineThePagesThatNameJobsAreNotServed) {
  HttpDoorOptions options;
  options.host = "0.0.0.0";
  options.pages = false;
  options.exposition = [] { return std::string("muond_up 1\n"); };
  options.status = [this] { return report_; };
  const auto door = HttpDoor::Open(options);
  ASSERT_TRUE(door.ok()) << door.status();
  httplib::Client client("http://" + (*door)->endpoint());
  EXPECT_EQ(client.Get("/metrics")->body, "muond_up 1\n");
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  for (const char* path : {"/", "/status", "/status.json"})
    EXPECT_EQ(client.Get(path)->status, 404) << path;
}

TEST_F(HttpDoorTest, AnIpv6AddressStandsInBrackets) {
  HttpDoorOptions options;
  options.host = "[::1]";
  options.exposition = [] { return std::string("muond_up 1\n"); };
  options.status = [this] { return report_; };
  const auto door = HttpDoor::Open(options);
  if (!door.ok()) GTEST_SKIP() << "no IPv6 here: " << door.status();
  EXPECT_THAT((*door)->endpoint(), HasSubstr("[::1]:"));
  EXPECT_EQ(httplib::Client("http://" + (*door)->endpoint()).Get("/metrics")->status, 200);
}

TEST_F(HttpDoorTest, DrainingIsAliveAndNotReady) {
  report_->draining = true;
  EXPECT_EQ(Get("/healthz")->status, 200);
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_THAT(Get("/readyz")->body, HasSubstr("draining"));
}

TEST_F(HttpDoorTest, ALoopThatDoesNotAnswerIsUnhealthy) {
  report_.reset();
  for (const char* path : {"/healthz", "/readyz", "/status", "/status.json"})
    EXPECT_EQ(Get(path)->status, 503) << path;
  EXPECT_EQ(Get("/metrics")->status, 200);
}

TEST_F(HttpDoorTest, TheStatusPageShowsPhasesAsBarsAndEscapesNames) {
  const std::string page = Get("/status")->body;
  EXPECT_THAT(page, HasSubstr("gather"));
  EXPECT_THAT(page, HasSubstr("width:25.0%"));  // 1 ms of 4
  EXPECT_THAT(page, HasSubstr("width:100.0%"));
  EXPECT_THAT(page, HasSubstr("250.00 ms"));  // heartbeat age
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<script>")));
}

TEST_F(HttpDoorTest, JsonHasTheSameAndKeeps64Bits) {
  const auto json = nlohmann::json::parse(Get("/status.json")->body);
  EXPECT_EQ(json["jobs"][0]["job_id"].get<uint64_t>(), 18446744073709551615u);
  EXPECT_EQ(json["jobs"][0]["ranks"][0]["state"], "attached");
  EXPECT_EQ(json["keeper_pid"], 4);
}

TEST_F(HttpDoorTest, ATakenPortIsUnavailableWithItsAddress) {
  HttpDoorOptions options;
  const std::string endpoint = door_->endpoint();
  options.port = std::stoi(endpoint.substr(endpoint.rfind(':') + 1));
  const auto second = HttpDoor::Open(options);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(endpoint));
}

}  // namespace
}  // namespace muond
