// A real Prometheus scrapes a real daemon and answers queries about it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/daemon_under_test.h"

namespace muond {
namespace {

constexpr const char* kPrometheus = "/usr/bin/prometheus";

// A port that was free just now. Another process may take it before Prometheus does; the test then says so.
int FreePort() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  ::close(fd);
  return ntohs(address.sin_port);
}

TEST(PrometheusTest, ScrapesTheDaemonAndAnswersAQuery) {
  if (::access(kPrometheus, X_OK) != 0) GTEST_SKIP() << kPrometheus << " is not installed";
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  const std::string target = daemon.metrics();

  const std::string config = daemon.scratch() / "prometheus.yml";
  std::ofstream(config) << "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
                        << "scrape_configs: [{job_name: muond, static_configs: [{targets: ['"
                        << target << "']}]}]\n";
  const std::string address = "127.0.0.1:" + std::to_string(FreePort());
  ChildProcess prometheus(
      {kPrometheus, "--config.file=" + config, "--web.listen-address=" + address,
       "--storage.tsdb.path=" + (daemon.scratch() / "tsdb"), "--log.level=error"},
      daemon.scratch() / "prometheus.log");

  // The value of the query's only series, or "".
  const auto query = [&](const std::string& promql) -> std::string {
    httplib::Client client("http://" + address);
    const auto answer =
        client.Get("/api/v1/query?query=" + httplib::detail::encode_query_param(promql));
    if (!answer || answer->status != 200) return "";
    const auto result = nlohmann::json::parse(answer->body)["data"]["result"];
    return result.size() == 1 ? result[0]["value"][1].get<std::string>() : "";
  };
  EXPECT_TRUE(Eventually([&] { return query("muond_build_info{backend=\"cpu\"}") == "1"; }))
      << ReadWhole(daemon.scratch() / "prometheus.log");
  EXPECT_EQ(query("up{job=\"muond\"}"), "1");
  EXPECT_EQ(query("sum(muond_steps_total)"), "0");
  EXPECT_EQ(query("count(muond_step_seconds_count)"), "8");
  EXPECT_EQ(query("muond_stepper_starts"), "1");
}

TEST(PrometheusTest, ProbesAndPagesOfARealDaemon) {
  DaemonUnderTest daemon(MUOND_BINARY);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  httplib::Client client("http://" + daemon.metrics());
  EXPECT_EQ(client.Get("/healthz")->status, 200);
  EXPECT_EQ(client.Get("/readyz")->status, 200);
  EXPECT_THAT(client.Get("/status")->body, ::testing::HasSubstr("cpu"));
  const auto status = nlohmann::json::parse(client.Get("/status.json")->body);
  EXPECT_EQ(status["keeper_pid"], daemon.process().pid());
  EXPECT_EQ(status["stepper_pid"], daemon.stepper());
  EXPECT_EQ(status["endpoint"], daemon.endpoint());
}

}  // namespace
}  // namespace muond
