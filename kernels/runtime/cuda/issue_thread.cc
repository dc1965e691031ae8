#include "kernels/runtime/cuda/issue_thread.h"

#include <cuda_runtime_api.h>

#include <utility>

namespace muond {

IssueThread::IssueThread(int cuda_ordinal) : thread_([this, cuda_ordinal] { Run(cuda_ordinal); }) {}

IssueThread::~IssueThread() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  thread_.join();
}

void IssueThread::Add(absl::AnyInvocable<void()> call) {
  absl::MutexLock lock(&mutex_);
  calls_.push_back(std::move(call));
  ++added_;
}

void IssueThread::Flush() {
  mutex_.Lock();
  const uint64_t target = added_;
  auto reached = [this, target]()
                     ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return issued_ >= target; };
  mutex_.Await(absl::Condition(&reached));
  mutex_.Unlock();
}

void IssueThread::Run(int cuda_ordinal) {
  (void)cudaSetDevice(cuda_ordinal);  // a failure shows in the first call issued
  std::deque<absl::AnyInvocable<void()>> batch;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      auto something = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return ending_ || !calls_.empty();
      };
      mutex_.Await(absl::Condition(&something));
      if (calls_.empty()) return;
      batch.swap(calls_);
    }
    for (auto& call : batch) {
      call();
      call = nullptr;
      absl::MutexLock lock(&mutex_);
      ++issued_;
    }
    batch.clear();
  }
}

}  // namespace muond
