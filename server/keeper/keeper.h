// Keeper: the parent process. It holds the slabs' descriptors, starts the stepper and starts it
// again when it dies, and hands descriptors to ranks. No CUDA, no policy, no threads: all IO of the
// room is in keeper.cc.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"

namespace muond {

// The daemon's exit codes (server/keeper/README.md).
inline constexpr int kExitOk = 0;           // drained, or the lifeline ended
inline constexpr int kExitCannotStart = 1;  // the log says why
inline constexpr int kExitUsage = 2;        // flags, environment or file
inline constexpr int kExitStepperDies = 3;  // restarted again and again in vain
inline constexpr int kExitJobsCut =
    4;  // the drain timed out, or a second signal came, with jobs running

struct KeeperOptions {
  std::string socket_dir;
  std::string executable = "/proc/self/exe";
  std::vector<std::string>
      stepper_arguments;          // argv of the stepper; "--stepper-starts=N" is appended
  bool remove_directory = false;  // also when it was there before (standalone)
  int lifeline_fd = -1;           // when its other end closes, everything ends; taken over
  int ready_fd = -1;              // gets "ready\n" once the stepper serves, then closes; taken over
  absl::Duration drain_timeout = absl::Seconds(30);
};

// Runs until it is told to end (SIGTERM, SIGINT, lifeline) or cannot go on. Blocks those signals
// and SIGCHLD in this thread.
int RunKeeper(const KeeperOptions& options);

}  // namespace muond
