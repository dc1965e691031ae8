// DaemonUnderTest: the real muond in a scratch directory, on free ports, ended with the test.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/child_process.h"
#include "tests/support/scratch_directory.h"

namespace muond {

class DaemonUnderTest {
 public:
  // `binary` is the path of muond; `flags` come after the ones that make it fit for a test. REQUIRES: the binary is built.
  explicit DaemonUnderTest(const std::string& binary, std::vector<std::string> flags = {}) {
    std::vector<std::string> argv = {binary, "--backend=cpu", "--cpu-memory-bytes=256MiB",
                                     "--metrics-listen=127.0.0.1:0", "--socket-dir=" + directory()};
    argv.insert(argv.end(), flags.begin(), flags.end());
    process_ = std::make_unique<ChildProcess>(argv, log_path());
  }

  ChildProcess& process() { return *process_; }
  std::string directory() const { return scratch_ / "run"; }
  std::string endpoint() const { return "unix:" + directory() + "/grpc.sock"; }
  std::string log_path() const { return scratch_ / "log"; }
  std::string log() const { return ReadWhole(log_path()); }
  const ScratchDirectory& scratch() const { return scratch_; }

  // Until `starts` steppers have said that they serve, and where, and the keeper has: two processes, in either order.
  bool Serves(int starts = 1) {
    const auto serve = [&] {
      const std::string text = log();
      return CountOf(text, "stepper.serving") >= starts &&
             CountOf(text, "daemon.serving") >= starts;
    };
    return Eventually([&] { return serve() || process_->Ended(); }) && serve();
  }
  bool Logged(const std::string& what) {
    return Eventually([&] { return log().find(what) != std::string::npos; });
  }
  // The newest value of `field=` in the log.
  std::string Field(const std::string& field) const {
    const std::string text = log();
    const size_t at = text.rfind(field + "=");
    if (at == std::string::npos) return "";
    const size_t begin = at + field.size() + 1;
    return text.substr(begin, text.find_first_of(" \n", begin) - begin);
  }
  std::string metrics() const { return Field("metrics"); }
  pid_t stepper() const {
    const std::string text = log();
    return std::stoi(text.substr(text.rfind("stepper.serving pid=") + 20));
  }

 private:
  ScratchDirectory scratch_;
  std::unique_ptr<ChildProcess> process_;
};

}  // namespace muond
