#include "kernels/runtime/cell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>

namespace muond {
namespace {

// A futex compares 32 bits: the cell's low half changes with every store of a timeline.
uint32_t* LowHalf(const Cell* cell) {
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
  return const_cast<uint32_t*>(reinterpret_cast<const uint32_t*>(cell));
}

void SleepOn(const Cell* cell, uint64_t seen, std::chrono::nanoseconds time) {
  timespec limit{};
  limit.tv_sec = time.count() / 1'000'000'000;
  limit.tv_nsec = time.count() % 1'000'000'000;
  // Any return (woken, value changed, time-out, signal) leads to another look.
  syscall(SYS_futex, LowHalf(cell), FUTEX_WAIT, static_cast<uint32_t>(seen), &limit, nullptr, 0);
}

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void StoreCell(Cell* cell, uint64_t value) {
  cell->store(value, std::memory_order_release);
  syscall(SYS_futex, LowHalf(cell), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool WaitCell(const Cell* cell, uint64_t at_least, std::chrono::nanoseconds timeout) {
  constexpr int kLooks = 200;  // some 10 us: a hand-off between two running threads
  for (int i = 0; i < kLooks; ++i) {
    if (cell->load(std::memory_order_acquire) >= at_least) return true;
    Pause();
  }
  const auto start = std::chrono::steady_clock::now();
  std::chrono::nanoseconds nap = std::chrono::microseconds(50);
  while (true) {
    const uint64_t seen = cell->load(std::memory_order_acquire);
    if (seen >= at_least) return true;
    const std::chrono::nanoseconds left = timeout - (std::chrono::steady_clock::now() - start);
    if (left <= std::chrono::nanoseconds::zero()) return false;
    SleepOn(cell, seen, std::min(left, nap));
    nap = std::min<std::chrono::nanoseconds>(nap * 2, kCellPoll);
  }
}

}  // namespace muond
