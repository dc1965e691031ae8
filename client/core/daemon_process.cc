#include "client/core/daemon_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/core/fork_guard.h"
#include "client/core/program.h"
#include "proto/stubs/daemon_stub.h"

extern char** environ;

namespace muond {
namespace {

constexpr int kLifelineInChild = 3;
constexpr int kReadyInChild = 4;
constexpr size_t kLogTailBytes = 2048;
constexpr int kLookMs = 5;
constexpr absl::Duration kLook = absl::Milliseconds(kLookMs);
constexpr absl::Duration kProgressEvery = absl::Milliseconds(500);

// A name in a folder that only we can enter. Not made here: the daemon makes it, and takes it away
// when it ends.
std::string FolderFor(pid_t pid) {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool usable = runtime != nullptr && *runtime == '/' && ::access(runtime, W_OK) == 0;
  const char* temporary = std::getenv("TMPDIR");
  // Socket paths hold 107 bytes: a long TMPDIR is not used.
  const bool short_enough =
      temporary != nullptr && *temporary == '/' && std::string(temporary).size() <= 40;
  return absl::StrFormat("%s/muond-%d-%d",
                         usable         ? runtime
                         : short_enough ? temporary
                                        : "/tmp",
                         pid, absl::ToUnixMicros(absl::Now()) % 1'000'000'000);
}

std::string EndText(int wait_status) {
  if (WIFEXITED(wait_status)) {
    return absl::StrFormat("it ended with exit code %d", WEXITSTATUS(wait_status));
  }
  if (WIFSIGNALED(wait_status)) {
    return absl::StrFormat("signal %d (%s) ended it", WTERMSIG(wait_status),
                           ::strsignal(WTERMSIG(wait_status)));
  }
  return "it ended";
}

}  // namespace

absl::StatusOr<std::unique_ptr<DaemonProcess>> DaemonProcess::Start(const DaemonOptions& options) {
  absl::StatusOr<std::string> program = FindProgram(options.program);
  if (!program.ok()) return program.status();
  std::unique_ptr<DaemonProcess> daemon(new DaemonProcess);
  if (absl::Status spawned = daemon->Spawn(options, *program); !spawned.ok()) return spawned;
  if (absl::Status serves = daemon->WaitUntilItServes(options); !serves.ok()) return serves;
  return daemon;
}

absl::Status DaemonProcess::Spawn(const DaemonOptions& options, const std::string& program) {
  folder_ = FolderFor(::getpid());
  endpoint_ = absl::StrCat("unix:", folder_, "/grpc.sock");
  log_path_ = options.log_path;
  if (log_path_.empty()) {
    log_.Reset(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!log_.valid()) log_.Reset(::open("/dev/null", O_RDWR | O_CLOEXEC));
  } else if (log_path_ != "-") {
    log_.Reset(::open(log_path_.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600));
    if (!log_.valid()) {
      return absl::ErrnoToStatus(errno, absl::StrCat("opening the daemon's log ", log_path_));
    }
  }
  int lifeline[2], ready[2];
  if (::pipe2(lifeline, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "the lifeline's pipe");
  UniqueFd lifeline_end(lifeline[0]);
  lifeline_.Reset(lifeline[1]);
  if (absl::Status guarded = GuardDescriptor(lifeline_.get()); !guarded.ok()) return guarded;
  if (::pipe2(ready, O_CLOEXEC | O_NONBLOCK) != 0) return absl::ErrnoToStatus(errno, "a pipe");
  ready_.Reset(ready[0]);
  UniqueFd ready_end(ready[1]);
  // Out of the way of the numbers that they get in the child.
  UniqueFd lifeline_far(::fcntl(lifeline_end.get(), F_DUPFD_CLOEXEC, kReadyInChild + 1));
  UniqueFd ready_far(::fcntl(ready_end.get(), F_DUPFD_CLOEXEC, kReadyInChild + 1));
  if (!lifeline_far.valid() || !ready_far.valid()) return absl::ErrnoToStatus(errno, "a pipe");

  std::vector<std::string> arguments = {program,         "--standalone",
                                        "--lifeline-fd", absl::StrCat(kLifelineInChild),
                                        "--ready-fd",    absl::StrCat(kReadyInChild),
                                        "--socket-dir",  folder_};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  if (log_.valid()) ::posix_spawn_file_actions_adddup2(&actions, log_.get(), 2);
  ::posix_spawn_file_actions_adddup2(&actions, 2, 1);
  ::posix_spawn_file_actions_adddup2(&actions, lifeline_far.get(), kLifelineInChild);
  ::posix_spawn_file_actions_adddup2(&actions, ready_far.get(), kReadyInChild);
  ::posix_spawn_file_actions_addclosefrom_np(&actions, kReadyInChild + 1);
  // A session of its own: Ctrl-C at the job's terminal ends the job, and through it the daemon, in
  // that order.
  ::posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  sigset_t none, all;
  ::sigemptyset(&none);
  ::sigfillset(&all);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setsigdefault(&attributes, &all);
  const int failed =
      ::posix_spawn(&pid_, program.c_str(), &actions, &attributes, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (failed != 0) {
    pid_ = -1;
    return absl::ErrnoToStatus(failed, absl::StrCat("starting ", program));
  }
  return absl::OkStatus();
}

absl::Status DaemonProcess::WaitUntilItServes(const DaemonOptions& options) {
  const absl::Time start = absl::Now();
  absl::Time told = start;
  for (;;) {
    pollfd ready = {ready_.get(), POLLIN, 0};
    ::poll(&ready, 1, kLookMs);
    char line[16];
    // One line comes once it serves; an end without a line means that it never will.
    if (ready.revents != 0 && ::read(ready_.get(), line, sizeof(line)) > 0) break;
    if (Ended()) {
      return absl::UnavailableError(
          absl::StrFormat("muond (pid %d) does not serve: %s. Its log ends:\n%s", pid_,
                          EndText(wait_status_), LogTail()));
    }
    if (ready.revents != 0) absl::SleepFor(absl::Milliseconds(kLookMs));  // ending, not yet ended
    const absl::Time now = absl::Now();
    if (now - start > options.timeout) {
      return absl::DeadlineExceededError(
          absl::StrFormat("muond (pid %d) does not serve at %s after %.1f s. Its log ends:\n%s",
                          pid_, endpoint_, absl::ToDoubleSeconds(now - start), LogTail()));
    }
    if (options.progress && now - told >= kProgressEvery) {
      told = now;
      options.progress(now - start, absl::StrFormat("waiting for muond (pid %d) to serve", pid_));
    }
  }
  ready_.Reset();
  return absl::OkStatus();
}

bool DaemonProcess::Ended() {
  if (ended_ || pid_ < 0) return true;
  int status = 0;
  const pid_t reaped = ::waitpid(pid_, &status, WNOHANG);
  // ECHILD: somebody else in this process has reaped it.
  ended_ = reaped == pid_ || (reaped < 0 && errno == ECHILD);
  if (reaped == pid_) wait_status_ = status;
  return ended_;
}

bool DaemonProcess::WaitForEnd(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  while (!Ended()) {
    if (absl::Now() >= end) return false;
    absl::SleepFor(kLook);
  }
  return true;
}

bool DaemonProcess::WaitUntilIdle(absl::Duration timeout) {
  const absl::Time end = absl::Now() + timeout;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = DaemonStub::Create(endpoint_);
  while (stub.ok() && !Ended()) {
    const absl::StatusOr<DaemonStatus> status = (*stub)->GetStatus(absl::Seconds(1));
    if (status.ok() && status->jobs.empty()) return true;
    if (absl::Now() >= end) return false;
    absl::SleepFor(4 * kLook);
  }
  return Ended();
}

absl::Status DaemonProcess::Stop(absl::Duration timeout) {
  if (::getpid() != owner_pid_) return absl::OkStatus();  // a forked copy: not its daemon
  if (lifeline_.valid()) {
    UnguardDescriptor(lifeline_.get());
    lifeline_.Reset();
  }
  absl::Status result;
  if (pid_ >= 0 && !WaitForEnd(timeout)) {
    ::kill(pid_, SIGKILL);
    WaitForEnd(absl::Seconds(5));
    result = absl::DeadlineExceededError(absl::StrFormat(
        "muond (pid %d) had not ended after %.1f s and was killed. Its log ends:\n%s", pid_,
        absl::ToDoubleSeconds(timeout), LogTail()));
  }
  // The daemon takes its folder away itself, unless it was killed.
  if (!folder_.empty()) {
    for (const char* name : {"grpc.sock", "keeper.sock", "frames.sock"}) {
      ::unlink(absl::StrCat(folder_, "/", name).c_str());
    }
    ::rmdir(folder_.c_str());
    folder_.clear();
  }
  pid_ = -1;
  return result;
}

DaemonProcess::~DaemonProcess() { Stop(absl::Seconds(5)).IgnoreError(); }

std::string DaemonProcess::LogTail() const {
  if (log_path_ == "-") return "(on stderr)";
  if (!log_path_.empty()) return absl::StrCat("(in ", log_path_, ")");
  struct stat info = {};
  if (!log_.valid() || ::fstat(log_.get(), &info) != 0 || info.st_size == 0) return "(nothing)";
  const off_t start = std::max<off_t>(0, info.st_size - static_cast<off_t>(kLogTailBytes));
  std::string tail(static_cast<size_t>(info.st_size - start), '\0');
  const ssize_t got = ::pread(log_.get(), tail.data(), tail.size(), start);
  tail.resize(got > 0 ? static_cast<size_t>(got) : 0);
  return tail;
}

}  // namespace muond
