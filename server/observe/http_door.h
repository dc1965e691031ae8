// HttpDoor: /metrics, /healthz, /readyz, /status (HTML) and /status.json, read-only.
// Threads: four of its own call the functions of the options; Open and the destructor from one thread.
// Errors:  UNAVAILABLE with the address when it is taken.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "server/observe/status_report.h"

namespace muond {

struct HttpDoorOptions {
  std::string host = "127.0.0.1";  // an IPv6 address in brackets
  int port = 0;                    // 0: any free one
  bool pages = true;               // /status, which names jobs and processes: for this machine only
  std::function<std::string()> exposition;
  // Empty when the StepLoop does not answer in time: then /healthz fails.
  std::function<std::optional<StatusReport>()> status;
};

class HttpDoor {
 public:
  static absl::StatusOr<std::unique_ptr<HttpDoor>> Open(HttpDoorOptions options);
  ~HttpDoor();                   // stops serving
  std::string endpoint() const;  // "127.0.0.1:9478"

 private:
  struct Impl;
  explicit HttpDoor(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace muond
