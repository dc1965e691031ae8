#include "server/observe/http_door.h"

#include <httplib.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "server/observe/status_page.h"

namespace muond {
namespace {

constexpr int kThreads = 4;
constexpr time_t kPatienceSeconds = 5;  // with a peer that reads or writes slowly
constexpr size_t kRequestBytesMax = 8192;
constexpr const char* kText = "text/plain; charset=utf-8";
// What a Prometheus server of any version takes.
constexpr const char* kExpositionType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace

struct HttpDoor::Impl {
  explicit Impl(HttpDoorOptions o) : options(std::move(o)) {}

  void SetUp() {
    server.new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
    server.set_read_timeout(kPatienceSeconds);
    server.set_write_timeout(kPatienceSeconds);
    server.set_payload_max_length(kRequestBytesMax);
    // Not SO_REUSEPORT, the library's default: two daemons would share a port without a word.
    server.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(options.exposition(), kExpositionType);
    });
    server.Get("/healthz", [this](const httplib::Request&, httplib::Response& response) {
      const bool alive = options.status().has_value();
      response.status = alive ? 200 : 503;
      response.set_content(alive ? "ok\n" : "the step loop does not answer\n", kText);
    });
    server.Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
      const auto report = options.status();
      const char* text = !report.has_value() ? "the step loop does not answer\n"
                         : report->draining  ? "draining\n"
                                             : "ready\n";
      response.status = report.has_value() && !report->draining ? 200 : 503;
      response.set_content(text, kText);
    });
    if (!options.pages) return;
    server.Get("/status", [this](const httplib::Request& request, httplib::Response& response) {
      const bool json =
          request.get_header_value("Accept").find("application/json") != std::string::npos;
      Show(json, response);
    });
    server.Get("/status.json", [this](const httplib::Request&, httplib::Response& response) {
      Show(true, response);
    });
    server.Get("/", [](const httplib::Request&, httplib::Response& response) {
      response.set_redirect("/status");
    });
  }

  void Show(bool json, httplib::Response& response) {
    const auto report = options.status();
    if (!report.has_value()) {
      response.status = 503;
      response.set_content("the step loop does not answer\n", kText);
    } else if (json) {
      response.set_content(StatusJson(*report), "application/json");
    } else {
      response.set_content(StatusHtml(*report), "text/html; charset=utf-8");
    }
  }

  HttpDoorOptions options;
  httplib::Server server;
  int port = 0;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<HttpDoor>> HttpDoor::Open(HttpDoorOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  impl->SetUp();
  const std::string& text = impl->options.host;
  const std::string host = text.starts_with('[') ? text.substr(1, text.size() - 2) : text;
  const int wanted = impl->options.port;
  if (wanted == 0) {
    impl->port = impl->server.bind_to_any_port(host);
  } else {
    impl->port = impl->server.bind_to_port(host, wanted) ? wanted : -1;
  }
  if (impl->port <= 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for metrics on ", text, ":", wanted, ": it is taken"));
  }
  Impl* raw = impl.get();
  impl->thread = std::thread([raw] { raw->server.listen_after_bind(); });
  return std::unique_ptr<HttpDoor>(new HttpDoor(std::move(impl)));
}

HttpDoor::HttpDoor(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpDoor::~HttpDoor() {
  // stop() is ignored by a server that has not begun to listen yet.
  while (!impl_->server.is_running()) std::this_thread::yield();
  impl_->server.stop();
  impl_->thread.join();
}

std::string HttpDoor::endpoint() const {
  return absl::StrCat(impl_->options.host, ":", impl_->port);
}

}  // namespace muond
