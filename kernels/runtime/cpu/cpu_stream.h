// CpuStream: a queue of host work and the one thread that runs it, in order.
#pragma once

#include <atomic>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/backend.h"

namespace muond {

class CpuStream final : public Stream {
 public:
  CpuStream();
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
  void RunOne(absl::AnyInvocable<void()> work);
  bool HasWorkOrEnds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !queue_.empty() || ends_;
  }
  bool IsDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return finished_ >= enqueued_; }

  mutable absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  uint64_t enqueued_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);

  std::atomic<bool> ending_{false};  // set by the destructor: unsatisfied waits give up
  bool gave_up_ = false;             // the thread's own: the rest is dropped
  std::thread thread_;               // last: starts when all else is there
};

}  // namespace muond
