#include "kernels/runtime/spin_window.h"

#include <sched.h>

#include <algorithm>

namespace muond {
namespace {

int UsableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
  return CPU_COUNT(&cores);
}

}  // namespace

SpinWindow::SpinWindow(Duration longest)
    : longest_(longest > Duration::zero() && UsableCores() > 1 ? longest : Duration::zero()) {}

void SpinWindow::Learn(Duration took, bool preempted) {
  if (preempted) {
    window_ = Duration::zero();
    shut_waits_ = kShutWaits;
    return;
  }
  if (shut_waits_ > 0) {
    --shut_waits_;
    return;
  }
  if (took > longest_) {
    window_ = window_ > longest_ / 16 ? window_ / 2 : Duration::zero();
  } else if (took > window_) {
    window_ = std::min(longest_, std::max(2 * window_, longest_ / 4));
  }
}

void SpinWindow::GiveWay() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
  sched_yield();
}

}  // namespace muond
