// ChildProcess: a real process under test, reaped at the latest by the destructor (SIGKILL).
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace muond {

// Polls until `condition` holds; false after `within`.
inline bool Eventually(const std::function<bool()>& condition,
                       std::chrono::milliseconds within = std::chrono::seconds(60)) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

inline std::string ReadWhole(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline int CountOf(const std::string& text, const std::string& what) {
  int count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + what.size()))
    ++count;
  return count;
}

inline bool Runs(pid_t pid) {
  if (::kill(pid, 0) != 0) return false;
  // A zombie of another parent counts as ended.
  const std::string stat = ReadWhole("/proc/" + std::to_string(pid) + "/stat");
  const size_t end = stat.rfind(')');
  return end != std::string::npos && end + 2 < stat.size() && stat[end + 2] != 'Z';
}

class ChildProcess {
 public:
  // Runs `body` in a forked child and exits with what it returns.
  explicit ChildProcess(const std::function<int()>& body) {
    pid_ = ::fork();
    if (pid_ == 0) ::_exit(body());
  }
  // Executes argv[0] with standard error appended to `log` and standard output to `out` (empty: as
  // ours).
  ChildProcess(const std::vector<std::string>& argv, const std::string& log,
               const std::string& out = "")
      : ChildProcess([&] {
          std::vector<char*> pointers;
          for (const std::string& a : argv) pointers.push_back(const_cast<char*>(a.c_str()));
          pointers.push_back(nullptr);
          if (!log.empty() && ::freopen(log.c_str(), "a", stderr) == nullptr) return 126;
          if (!out.empty() && ::freopen(out.c_str(), "a", stdout) == nullptr) return 126;
          ::execv(pointers[0], pointers.data());
          return 127;
        }) {}
  ~ChildProcess() {
    if (status_.has_value() || pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    Wait();
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) { ::kill(pid_, signal); }
  // The exit code, or -signal.
  int Wait() {
    if (!status_.has_value()) {
      int status = 0;
      while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
      status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    return *status_;
  }
  bool Ended() {
    if (status_.has_value()) return true;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return true;
  }

 private:
  pid_t pid_ = -1;
  std::optional<int> status_;
};

}  // namespace muond
