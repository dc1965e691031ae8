// Frame round trip between two processes over the ipc carrier: PING, PONG, p50 and p99.
//   frame_round_trip [ROUNDS] [--sleep | --spin]
// By default both sides look for a while and then sleep in poll(2), as the StepLoop does (kernels/runtime/spin_window.h).
// --sleep: they sleep at once; --spin: they never do, the floor of this way to travel. Needs two cores that are otherwise idle.
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/runtime/spin_window.h"
#include "proto/carrier/ipc/ipc_carrier.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr int kWarmUp = 2000;

enum class Waiting : uint8_t { kLookThenSleep, kSleep, kSpin };

class Waiter {
 public:
  explicit Waiter(Waiting how)
      : how_(how),
        spin_(how == Waiting::kLookThenSleep ? SpinWindow::kLongest
                                             : SpinWindow::Duration::zero()) {}

  void UntilReadable(Carrier& carrier) {
    pollfd entry{carrier.event_descriptor(), POLLIN, 0};
    const auto readable = [&entry](int timeout) { return ::poll(&entry, 1, timeout) > 0; };
    spin_.Wait([&] { return readable(0); },
               [&] {
                 while (!readable(how_ == Waiting::kSpin ? 0 : -1)) {
                 }
               });
  }

 private:
  const Waiting how_;
  SpinWindow spin_;
};

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

[[noreturn]] void Echo(UniqueFd listening, Waiting how) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto carrier = ListenIpc(std::move(listening));
  if (!carrier.ok()) Die(carrier.status());
  std::vector<CarrierEvent> events;
  Waiter waiter(how);
  for (;;) {
    waiter.UntilReadable(**carrier);
    events.clear();
    (*carrier)->Poll(&events);
    for (const CarrierEvent& event : events) {
      if (event.kind == CarrierEventKind::kPeerGone) ::_exit(0);
      if (event.kind != CarrierEventKind::kFrame) continue;
      Frame pong = event.frame;
      pong.type = FrameType::kPong;
      if (auto status = (*carrier)->Send(event.peer, pong); !status.ok()) Die(status);
    }
  }
}

void Measure(const std::string& path, int rounds, Waiting how) {
  Waiter waiter(how);
  auto connected = ConnectIpc(path);
  if (!connected.ok()) Die(connected.status());
  std::vector<double> us;
  us.reserve(static_cast<size_t>(rounds));
  std::vector<CarrierEvent> events;
  for (int i = 0; i < kWarmUp + rounds; ++i) {
    Frame ping;
    ping.type = FrameType::kPing;
    ping.value = static_cast<uint64_t>(i);
    const auto began = std::chrono::steady_clock::now();
    if (auto status = connected->carrier->Send(connected->peer, ping); !status.ok()) Die(status);
    events.clear();
    while (events.empty()) {
      waiter.UntilReadable(*connected->carrier);
      connected->carrier->Poll(&events);
    }
    const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
    if (events[0].frame.value != ping.value) Die(absl::InternalError("another frame came back"));
    if (i >= kWarmUp) us.push_back(took.count());
  }
  std::sort(us.begin(), us.end());
  const auto at = [&us](double share) {
    return us[static_cast<size_t>(share * static_cast<double>(us.size() - 1))];
  };
  std::printf(
      "frame round trip, two processes, %s, %d rounds: p50 %.1f us, p99 %.1f us, least %.1f us\n",
      how == Waiting::kSpin    ? "spinning"
      : how == Waiting::kSleep ? "sleeping at once"
                               : "looking, then sleeping",
      rounds, at(0.5), at(0.99), us.front());
}

int Main(int argc, char** argv) {
  int rounds = 50'000;
  Waiting how = Waiting::kLookThenSleep;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--spin") == 0)
      how = Waiting::kSpin;
    else if (std::strcmp(argv[i], "--sleep") == 0)
      how = Waiting::kSleep;
    else
      rounds = std::max(1, std::atoi(argv[i]));
  }
  char directory[] = "/tmp/muond-bench-XXXXXX";
  if (::mkdtemp(directory) == nullptr) return 1;
  const std::string path = std::string(directory) + "/frames.sock";
  auto listening = ListenSeqpacket(path, 8);
  if (!listening.ok()) Die(listening.status());
  const pid_t echo = ::fork();
  if (echo == 0) Echo(*std::move(listening), how);
  listening->Reset();
  Measure(path, rounds, how);
  ::waitpid(echo, nullptr, 0);
  ::unlink(path.c_str());
  ::rmdir(directory);
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) { return muond::Main(argc, argv); }
