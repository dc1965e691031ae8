// Frame round trip between two processes over the ipc carrier: PING, PONG, p50 and p99.
//   frame_round_trip [ROUNDS] [--spin]
// By default both sides sleep in poll(2), as the StepLoop and a rank do; --spin polls without sleeping, the floor of this
// way to travel. Needs two cores that are otherwise idle.
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

#include "proto/carrier/ipc/ipc_carrier.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr int kWarmUp = 2000;

void WaitReadable(Carrier& carrier, bool spin) {
  pollfd entry{carrier.event_descriptor(), POLLIN, 0};
  while (::poll(&entry, 1, spin ? 0 : -1) <= 0) {
  }
}

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}

[[noreturn]] void Echo(UniqueFd listening, bool spin) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto carrier = ListenIpc(std::move(listening));
  if (!carrier.ok()) Die(carrier.status());
  std::vector<CarrierEvent> events;
  for (;;) {
    WaitReadable(**carrier, spin);
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

void Measure(const std::string& path, int rounds, bool spin) {
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
      WaitReadable(*connected->carrier, spin);
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
      spin ? "spinning" : "sleeping in poll", rounds, at(0.5), at(0.99), us.front());
}

int Main(int argc, char** argv) {
  int rounds = 50'000;
  bool spin = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--spin") == 0)
      spin = true;
    else
      rounds = std::max(1, std::atoi(argv[i]));
  }
  char directory[] = "/tmp/muond-bench-XXXXXX";
  if (::mkdtemp(directory) == nullptr) return 1;
  const std::string path = std::string(directory) + "/frames.sock";
  auto listening = ListenSeqpacket(path, 8);
  if (!listening.ok()) Die(listening.status());
  const pid_t echo = ::fork();
  if (echo == 0) Echo(*std::move(listening), spin);
  listening->Reset();
  Measure(path, rounds, spin);
  ::waitpid(echo, nullptr, 0);
  ::unlink(path.c_str());
  ::rmdir(directory);
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) { return muond::Main(argc, argv); }
