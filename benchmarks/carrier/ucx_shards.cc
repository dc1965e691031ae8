// The UCX carrier between two processes over TCP on this machine: throughput of 64 MiB puts, latency of frames.
//   ucx_shards ADDRESS SHARDS FRAMES      e.g. 127.0.0.1:0 20 5000
// Prints: put_bytes_per_second  frame_latency_us (half a round trip, median; both sides poll, as ucx_perftest does).
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "proto/carrier/ucx/ucx_carrier.h"

namespace muond {
namespace {

constexpr size_t kShardBytes = size_t{64} << 20;
constexpr size_t kShardsUnderWay = 4;
using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "ucx_shards: %s\n", why.c_str());
  std::exit(1);
}

std::unique_ptr<ShardCarrier> Make(const std::string& listen) {
  UcxOptions options;
  options.listen = listen;
  options.transports = "tcp,self";
  auto carrier = CreateUcxCarrier(options);
  if (!carrier.ok()) Die(carrier.status().ToString());
  return *std::move(carrier);
}

void WriteLine(int descriptor, const std::string& text) {
  if (::write(descriptor, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    Die("write");
}
std::string Read(int descriptor, size_t size) {
  std::string text(size, '\0');
  if (::read(descriptor, text.data(), size) != static_cast<ssize_t>(size)) Die("read");
  return text;
}

// Lands puts and sends frames back until it is killed.
[[noreturn]] void Other(const std::string& address, const AdmissionKey& key, int to) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto carrier = Make(address);
  std::vector<uint8_t> memory(kShardBytes, 0);
  auto region = carrier->Register(memory.data(), memory.size());
  if (!region.ok() || !carrier->Admit(key, 0).ok()) Die("register or admit");
  std::string line = carrier->address();
  line.resize(64, ' ');
  WriteLine(to, line);
  region->key.resize(kRegionKeyBytesMax, ' ');
  WriteLine(to, region->key);
  std::vector<CarrierEvent> events;
  for (;;) {
    events.clear();
    carrier->Poll(&events);
    for (const CarrierEvent& event : events) {
      if (event.kind == CarrierEventKind::kFrame) (void)carrier->Send(event.peer, event.frame);
    }
  }
}

std::vector<CarrierEvent> Next(ShardCarrier& carrier) {
  std::vector<CarrierEvent> events;
  while (events.empty()) carrier.Poll(&events);
  for (const CarrierEvent& event : events) {
    if (!event.status.ok()) Die(event.status.ToString());
  }
  return events;
}

double PutRate(ShardCarrier& carrier, PeerId peer, RemoteRegionId region, size_t shards) {
  const std::vector<uint8_t> bytes(kShardBytes, 3);
  size_t sent = 0, done = 0;
  const auto start = Clock::now();
  while (done < shards) {
    for (; sent < shards && sent - done < kShardsUnderWay; ++sent) {
      if (!carrier.Put({peer, region, 0, bytes.data(), bytes.size(), sent}).ok()) Die("put");
    }
    done += Next(carrier).size();
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(shards * kShardBytes) / seconds;
}

double FrameLatencyUs(ShardCarrier& carrier, PeerId peer, size_t frames) {
  std::vector<double> round_trips;
  Frame frame;
  for (size_t i = 0; i < frames; ++i) {
    frame.value = i;
    const auto start = Clock::now();
    if (!carrier.Send(peer, frame).ok()) Die("send");
    Next(carrier);
    round_trips.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  std::nth_element(round_trips.begin(), round_trips.begin() + static_cast<ptrdiff_t>(frames / 2),
                   round_trips.end());
  return round_trips[frames / 2] / 2 * 1e6;
}

int Main(const std::string& address, size_t shards, size_t frames) {
  const AdmissionKey key = *NewAdmissionKey();
  int pipes[2];
  if (::pipe(pipes) != 0) Die("pipe");
  const pid_t child = ::fork();  // before UCX has started anything
  if (child == 0) Other(address, key, pipes[1]);
  std::string where = Read(pipes[0], 64);
  where.erase(where.find(' '));
  std::string region_key = Read(pipes[0], kRegionKeyBytesMax);
  region_key.erase(region_key.find_last_not_of(' ') + 1);
  auto carrier = Make("");
  const auto peer = carrier->Connect(where, key);
  if (!peer.ok()) Die(peer.status().ToString());
  const auto region = carrier->ImportRegion(*peer, region_key);
  if (!region.ok()) Die(region.status().ToString());
  PutRate(*carrier, *peer, *region, 3);
  FrameLatencyUs(*carrier, *peer, 500);
  const double rate = PutRate(*carrier, *peer, *region, shards);
  const double latency = FrameLatencyUs(*carrier, *peer, frames);
  std::printf("%.0f %.3f\n", rate, latency);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  if (argc != 4) muond::Die("give an address, a number of shards and a number of frames");
  const size_t shards = std::strtoul(argv[2], nullptr, 10);
  const size_t frames = std::strtoul(argv[3], nullptr, 10);
  if (shards == 0 || frames == 0) muond::Die("numbers start at 1");
  return muond::Main(argv[1], shards, frames);
}
