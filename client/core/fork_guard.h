// Descriptors that a forked child must not keep: a DataLoader worker that held the lifeline or a
// session's sockets would keep the daemon alive, or the rank "alive", after the rank has died.
// Every descriptor entered here is closed in the child of fork(); in the parent nothing happens.
// (close-on-exec covers exec; this covers fork without exec.)
// Threads: any.   Limits: kGuardedMax descriptors a process; beyond that RESOURCE_EXHAUSTED.
#pragma once

#include "absl/status/status.h"

namespace muond {

inline constexpr int kGuardedMax = 256;

absl::Status GuardDescriptor(int fd);
void UnguardDescriptor(int fd);  // before it is closed

// The count of forks between this process and the one that asked first: a client made at another
// count must not be used.
int ForkGeneration();

}  // namespace muond
