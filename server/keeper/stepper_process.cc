#include "server/keeper/stepper_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/time/clock.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr int kExitCannotExec = 127;

// In the child, between fork and exec: async-signal-safe calls only.
[[noreturn]] void Become(const char* executable, char* const* argv, pid_t keeper, int channel,
                         int frames) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != keeper) ::_exit(kExitCannotExec);  // the keeper died before prctl
  // Both above 10 first, so that neither overwrites the other; dup2 clears close-on-exec.
  const int high_channel = ::fcntl(channel, F_DUPFD_CLOEXEC, 10);
  const int high_frames = ::fcntl(frames, F_DUPFD_CLOEXEC, 10);
  if (high_channel < 0 || high_frames < 0 || ::dup2(high_channel, kStepperChannelFd) < 0 ||
      ::dup2(high_frames, kStepperFramesFd) < 0) {
    ::_exit(kExitCannotExec);
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execv(executable, argv);
  ::_exit(kExitCannotExec);
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepperProcess>> StepperProcess::Start(
    const std::string& executable, const std::vector<std::string>& arguments, int channel,
    int frame_socket) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t keeper = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoToStatus(errno, "fork");
  if (pid == 0) Become(executable.c_str(), argv.data(), keeper, channel, frame_socket);
  return std::unique_ptr<StepperProcess>(new StepperProcess(pid));
}

StepperProcess::~StepperProcess() {
  if (reaped_) return;
  Kill();
  int ignored;
  while (::waitpid(pid_, &ignored, 0) < 0 && errno == EINTR) {
  }
}

bool StepperProcess::TryReap(StepperExit* exit) {
  int status = 0;
  if (reaped_ || ::waitpid(pid_, &status, WNOHANG) != pid_) return false;
  reaped_ = true;
  exit->by_itself = WIFEXITED(status);
  exit->code = exit->by_itself ? WEXITSTATUS(status) : 0;
  exit->signal = exit->by_itself ? 0 : WTERMSIG(status);
  return true;
}

void StepperProcess::Kill() {
  if (!reaped_) ::kill(pid_, SIGKILL);
}

}  // namespace muond
