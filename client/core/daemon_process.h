// DaemonProcess: a `muond --standalone` of this process's own.
// The daemon holds the read end of a pipe, this process the write end: when this process ends,
// however it ends, the daemon sees it and ends too. (fork_guard.h keeps forked children from
// holding the pipe open.)
// Threads: one at a time.   Errors: NOT_FOUND without a binary; UNAVAILABLE with the end of its log
// when it dies before it serves;
//          DEADLINE_EXCEEDED.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

struct DaemonOptions {
  std::string program;   // empty: FindProgram
  std::string log_path;  // empty: an unnamed file, told when the start fails; "-": our stderr
  std::vector<std::string> arguments;
  absl::Duration timeout = absl::Seconds(30);
  // Called about twice a second while the start is waited for. May be null.
  std::function<void(absl::Duration waited, const std::string& text)> progress;
};

class DaemonProcess {
 public:
  static absl::StatusOr<std::unique_ptr<DaemonProcess>> Start(const DaemonOptions& options);
  // As Stop with five seconds, if Stop was not called.
  ~DaemonProcess();

  const std::string& endpoint() const { return endpoint_; }
  pid_t pid() const { return pid_; }
  // True once it has ended: it failed, or was told to.
  bool WaitForEnd(absl::Duration timeout);
  // True once no job is left there, or it has ended.
  bool WaitUntilIdle(absl::Duration timeout);
  // Lets go of the pipe and waits; after `timeout` it is killed: DEADLINE_EXCEEDED. Removes its
  // folder.
  absl::Status Stop(absl::Duration timeout);

 private:
  DaemonProcess() = default;
  absl::Status Spawn(const DaemonOptions& options, const std::string& program);
  absl::Status WaitUntilItServes(const DaemonOptions& options);
  bool Ended();
  std::string LogTail() const;

  const pid_t owner_pid_ = ::getpid();
  pid_t pid_ = -1;
  bool ended_ = false;
  int wait_status_ = 0;
  std::string folder_, endpoint_, log_path_;
  UniqueFd lifeline_, ready_, log_;
};

}  // namespace muond
