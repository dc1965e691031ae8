#include "server/daemon/cell_watch.h"

#include <sys/prctl.h>

#include <utility>

#include "absl/time/time.h"

namespace muond {

CellWatch::~CellWatch() {
  std::thread thread;
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

void CellWatch::Watch(const Cell* cell, uint64_t at_least, const Completion& completion,
                      bool urgent) {
  absl::MutexLock lock(&mutex_);
  if (ending_) return;
  entries_.push_back({cell, at_least, completion, urgent});
  hurry_ = hurry_ || urgent;
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
}

void CellWatch::Forget(uint64_t job) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(entries_, [job](const Entry& entry) { return entry.completion.job == job; });
}

bool CellWatch::Look() {
  bool urgent = false;
  std::erase_if(entries_, [&](const Entry& entry) {
    if (entry.cell->load(std::memory_order_acquire) >= entry.at_least) {
      mailbox_.Post(entry.completion);
      return true;
    }
    urgent = urgent || entry.urgent;
    return false;
  });
  hurry_ = false;
  return urgent;
}

void CellWatch::Run() {
  ::prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);  // ns: the kernel's 50 us would be the latency here
  mutex_.Lock();
  while (!ending_) {
    if (Look()) {
      mutex_.Unlock();
      std::this_thread::sleep_for(kUrgent);
      mutex_.Lock();
      continue;
    }
    const bool empty = entries_.empty();
    const auto wake = [this, empty]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ending_ || hurry_ || (empty && !entries_.empty());
    };
    if (empty) {
      mutex_.Await(absl::Condition(&wake));
    } else {
      mutex_.AwaitWithTimeout(absl::Condition(&wake), absl::FromChrono(kIdle));
    }
  }
  mutex_.Unlock();
}

}  // namespace muond
