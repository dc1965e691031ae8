// IssueThread: the one host thread that makes a device's CUDA calls, in the order in which they were handed over.
// A caller never blocks when a stream's hardware queue is full (about a thousand launches behind a wait-value);
// this thread does. It ends when the object does, after everything handed over has been issued.
// Threads: safe from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace muond {

class IssueThread {
 public:
  explicit IssueThread(int cuda_ordinal);
  ~IssueThread();
  IssueThread(const IssueThread&) = delete;
  IssueThread& operator=(const IssueThread&) = delete;

  void Add(absl::AnyInvocable<void()> call);
  // Returns when everything added before this call has been issued (not: has run on the device).
  void Flush();

 private:
  void Run(int cuda_ordinal);

  absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> calls_ ABSL_GUARDED_BY(mutex_);
  uint64_t added_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t issued_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace muond
