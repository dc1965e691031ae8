#include "kernels/runtime/cpu/cpu_stream.h"

#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"

namespace muond {

CpuStream::CpuStream() : thread_([this] { Run(); }) {}

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
  queue_.push_back(std::move(work));
  ++enqueued_;
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

void CpuStream::RunOne(absl::AnyInvocable<void()> work) {
  try {
    work();
  } catch (const std::exception& error) {
    absl::MutexLock lock(&mutex_);
    if (health_.ok())
      health_ = absl::InternalError(absl::StrCat("work on a CPU stream threw: ", error.what()));
  }
}

void CpuStream::Run() {
  while (true) {
    absl::AnyInvocable<void()> work;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &CpuStream::HasWorkOrEnds));
      if (queue_.empty()) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    if (!gave_up_) RunOne(std::move(work));
    absl::MutexLock lock(&mutex_);
    ++finished_;
  }
}

}  // namespace muond
