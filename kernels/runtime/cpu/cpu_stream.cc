#include "kernels/runtime/cpu/cpu_stream.h"

#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muond {

CpuStream::CpuStream(std::chrono::nanoseconds spin) : spin_(spin), thread_([this] { Run(); }) {}

CpuStream::~CpuStream() {
  {
    absl::MutexLock lock(&mutex_);
    ends_ = true;
  }
  ending_.store(true, std::memory_order_release);
  thread_.join();
}

void CpuStream::Host(absl::AnyInvocable<void()> work) {
  absl::MutexLock lock(&mutex_);
  if (waiting_ == ring_.size()) Grow();
  ring_[(first_ + waiting_) % ring_.size()] = std::move(work);
  ++waiting_;
  posted_.store(++enqueued_, std::memory_order_release);
}

void CpuStream::Grow() {
  std::vector<absl::AnyInvocable<void()>> larger(ring_.empty() ? 64 : 2 * ring_.size());
  for (size_t i = 0; i < waiting_; ++i) larger[i] = std::move(ring_[(first_ + i) % ring_.size()]);
  ring_ = std::move(larger);
  first_ = 0;
}

void CpuStream::WaitCell(const Cell* cell, uint64_t at_least) {
  Host([this, cell, at_least] {
    while (!muond::WaitCell(cell, at_least, std::chrono::milliseconds(10))) {
      if (ending_.load(std::memory_order_acquire)) {
        gave_up_ = true;
        return;
      }
    }
  });
}

void CpuStream::WriteCell(Cell* cell, uint64_t value) {
  Host([cell, value] { StoreCell(cell, value); });
}

void CpuStream::Copy(void* destination, const void* source, size_t size_bytes) {
  if (size_bytes == 0) return;
  Host([=] { std::memcpy(destination, source, size_bytes); });
}

void CpuStream::Zero(void* destination, size_t size_bytes) {
  if (size_bytes == 0) return;
  Host([=] { std::memset(destination, 0, size_bytes); });
}

absl::Status CpuStream::Synchronize() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &CpuStream::IsDone));
  return health_;
}

absl::Status CpuStream::health() const {
  absl::MutexLock lock(&mutex_);
  return health_;
}

void CpuStream::RunOne(absl::AnyInvocable<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    absl::MutexLock lock(&mutex_);
    if (health_.ok())
      health_ = absl::InternalError(absl::StrCat("work on a CPU stream threw: ", error.what()));
  }
}

bool CpuStream::Take(absl::AnyInvocable<void()>* work) {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &CpuStream::HasWorkOrEnds));
  if (waiting_ == 0) return false;
  *work = std::move(ring_[first_]);
  first_ = (first_ + 1) % ring_.size();
  --waiting_;
  return true;
}

void CpuStream::Run() {
  absl::AnyInvocable<void()> work;
  for (uint64_t taken = 0;; ++taken) {
    const auto has_work = [&] { return posted_.load(std::memory_order_acquire) > taken; };
    if (!has_work()) {
      spin_.Wait(has_work, [this] {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &CpuStream::HasWorkOrEnds));
      });
    }
    if (!Take(&work)) return;
    if (!gave_up_) RunOne(work);
    work = nullptr;  // what it captured goes before it counts as done
    absl::MutexLock lock(&mutex_);
    ++finished_;
  }
}

}  // namespace muond
