// SpinWindow: how long a thread looks for what it waits for before it sleeps.
//
// A thread that sleeps lets its core halt, and a halted core takes some 45 us to wake, more in a virtual machine; a thread that
// looks sees a store at once, and wastes its core when the store is late. So the window follows the waits: it opens where they
// turn out short, closes by halves where they are longer than it may ever be, and shuts for kShutWaits waits when somebody
// else wanted the core meanwhile. On a machine with fewer cores than busy threads nobody looks for long, without counting them;
// on one core, never.
// Threads: one at a time.
#pragma once

#include <chrono>

namespace muond {

class SpinWindow {
 public:
  using Duration = std::chrono::nanoseconds;
  // The default of everything that has such an option.
  static constexpr Duration kLongest = std::chrono::microseconds(200);
  // A look that comes so late was not the next thing that its core did.
  static constexpr Duration kPreempted = std::chrono::microseconds(40);
  static constexpr int kShutWaits = 64;

  // `longest`: the most that one wait may look; zero: never.
  explicit SpinWindow(Duration longest);

  // One wait: calls `ready` until it says true, at most for the window, then `sleep` once. Neither may throw.
  template <typename Ready, typename Sleep>
  void Wait(Ready ready, Sleep sleep) {
    if (longest_ == Duration::zero()) return sleep();
    const Clock::time_point start = Clock::now();
    bool preempted = false;
    if (window_ > Duration::zero()) {
      for (Clock::time_point last = start;;) {
        if (ready()) return Learn(Clock::now() - start, preempted);
        GiveWay();
        const Clock::time_point now = Clock::now();
        preempted = preempted || now - last > kPreempted;
        if (preempted || now - start >= window_) break;
        last = now;
      }
    }
    sleep();
    Learn(Clock::now() - start, preempted);
  }

  Duration window() const { return window_; }
  // What a wait was like: how long from its begin to its end, and whether the core was wanted meanwhile. Wait calls it.
  void Learn(Duration took, bool preempted);

 private:
  using Clock = std::chrono::steady_clock;
  static void GiveWay();  // a pause, and the core to whoever waits for it

  const Duration longest_;
  Duration window_ = Duration::zero();
  int shut_waits_ = 0;
};

}  // namespace muond
