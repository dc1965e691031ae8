#include "client/core/fork_guard.h"

#include <pthread.h>
#include <unistd.h>

#include <array>
#include <atomic>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

// Entries are descriptor + 1, so that zero means free. Atomics, not a lock: a child of fork() may
// not wait for one.
std::array<std::atomic<int>, kGuardedMax> guarded{};
std::atomic<int> generation{0};

void CloseInChild() {
  generation.fetch_add(1, std::memory_order_relaxed);
  for (std::atomic<int>& entry : guarded) {
    const int held = entry.exchange(0, std::memory_order_relaxed);
    if (held > 0) ::close(held - 1);
  }
}

int Register() {
  static const int error = ::pthread_atfork(nullptr, nullptr, &CloseInChild);
  return error;
}

}  // namespace

absl::Status GuardDescriptor(int fd) {
  if (int error = Register(); error != 0) return absl::ErrnoToStatus(error, "pthread_atfork");
  for (std::atomic<int>& entry : guarded) {
    int expected = 0;
    if (entry.compare_exchange_strong(expected, fd + 1)) return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrFormat(
      "%d descriptors of muond clients are open in this process, the most it keeps", kGuardedMax));
}

void UnguardDescriptor(int fd) {
  for (std::atomic<int>& entry : guarded) {
    int expected = fd + 1;
    if (entry.compare_exchange_strong(expected, 0)) return;
  }
}

int ForkGeneration() {
  Register();
  return generation.load(std::memory_order_relaxed);
}

}  // namespace muond
