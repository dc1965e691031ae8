// CpuStream: a queue of host work and the one thread that runs it, in order.
// Memory: enqueueing allocates nothing once the queue has grown to its working size and `work` is no larger than two pointers.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/spin_window.h"

namespace muond {

class CpuStream final : public Stream {
 public:
  // `spin`: how long its thread looks for more work before it sleeps, at most (spin_window.h).
  explicit CpuStream(std::chrono::nanoseconds spin);
  ~CpuStream() override;

  // An exception out of `work` becomes the stream's sticky failure (INTERNAL); what follows still runs.
  void Host(absl::AnyInvocable<void()> work) override;
  void WaitCell(const Cell* cell, uint64_t at_least) override;
  void WriteCell(Cell* cell, uint64_t value) override;
  void Copy(void* destination, const void* source, size_t size_bytes) override;
  void Zero(void* destination, size_t size_bytes) override;
  absl::Status Synchronize() override;
  absl::Status health() const override;

 private:
  void Run();
  void RunOne(absl::AnyInvocable<void()>& work);
  // The oldest work; false at the end.
  bool Take(absl::AnyInvocable<void()>* work);
  void Grow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasWorkOrEnds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return waiting_ > 0 || ends_; }
  bool IsDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return finished_ >= enqueued_; }

  mutable absl::Mutex mutex_;
  // A ring of which `waiting_` entries from `first_` on are to be run.
  std::vector<absl::AnyInvocable<void()>> ring_ ABSL_GUARDED_BY(mutex_);
  size_t first_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t enqueued_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);

  std::atomic<uint64_t> posted_{0};  // = enqueued_, for a thread that looks without the lock
  std::atomic<bool> ending_{false};  // set by the destructor: unsatisfied waits give up
  SpinWindow spin_;                  // the thread's own
  bool gave_up_ = false;             // the thread's own: the rest is dropped
  std::thread thread_;               // last: starts when all else is there
};

}  // namespace muond
