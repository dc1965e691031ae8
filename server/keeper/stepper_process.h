// StepperProcess: one run of the stepper, from fork to reaped. It never outlives the keeper: the
// kernel kills it with us (PR_SET_PDEATHSIG), and it checks at birth that we still live. Threads:
// the keeper's only thread (PDEATHSIG is tied to the thread that forked).
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

// Where the stepper finds what it inherits.
inline constexpr int kStepperChannelFd = 3;  // its end of the keeper's socketpair
inline constexpr int kStepperFramesFd = 4;   // the listening frame socket

struct StepperExit {
  bool by_itself = false;  // false: killed by `signal`
  int code = 0;
  int signal = 0;
};

class StepperProcess {
 public:
  // `executable` is opened by path (/proc/self/exe: this very binary, whatever lies at its path by
  // now).
  static absl::StatusOr<std::unique_ptr<StepperProcess>> Start(
      const std::string& executable, const std::vector<std::string>& arguments, int channel,
      int frame_socket);
  // Kills and reaps what still runs.
  ~StepperProcess();
  StepperProcess(const StepperProcess&) = delete;
  StepperProcess& operator=(const StepperProcess&) = delete;

  pid_t pid() const { return pid_; }
  absl::Time started_at() const { return started_at_; }
  // True once it has ended and is reaped: nothing of it runs any more, its queued GPU work
  // included.
  bool TryReap(StepperExit* exit);
  void Kill();  // SIGKILL; TryReap tells the end

 private:
  explicit StepperProcess(pid_t pid) : pid_(pid), started_at_(absl::Now()) {}
  const pid_t pid_;
  const absl::Time started_at_;
  bool reaped_ = false;
};

}  // namespace muond
