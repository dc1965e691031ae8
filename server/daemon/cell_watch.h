// CellWatch: tells the StepLoop of cells that a device writes, since a GPU's store wakes nobody.
//
// A frame may travel ahead of the data: the rank's stream writes `gradient_ready` when it gets there. Whoever has seen the frame
// watches the cell here, and is posted a completion once it holds the value. A thread looks every kUrgent while something urgent
// is watched, every kIdle otherwise (sheets of ranks whose frame may have been lost with a dead stepper), and sleeps without a
// timeout while nothing is watched. It starts with the first Watch: a daemon without GPU jobs has no such thread.
// Threads: safe from any thread.   Lifetime: a watched cell stays mapped until it came or its job was forgotten.
#pragma once

#include <chrono>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/cell.h"
#include "server/daemon/mailbox.h"

namespace muond {

class CellWatch {
 public:
  static constexpr std::chrono::microseconds kUrgent{10};
  static constexpr std::chrono::microseconds kIdle{1000};

  explicit CellWatch(Mailbox& mailbox) : mailbox_(mailbox) {}
  ~CellWatch();

  // Posts `completion` once *cell >= at_least, also when it does already.
  void Watch(const Cell* cell, uint64_t at_least, const Completion& completion, bool urgent);
  // Nothing of the job is looked at when this returns; what was posted is posted.
  void Forget(uint64_t job);

 private:
  struct Entry {
    const Cell* cell;
    uint64_t at_least;
    Completion completion;
    bool urgent;
  };
  void Run();
  bool Look() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);  // whether something urgent is left

  Mailbox& mailbox_;
  absl::Mutex mutex_;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  bool hurry_ ABSL_GUARDED_BY(mutex_) = false;  // something urgent came in since the last look
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond
