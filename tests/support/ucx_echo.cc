// The other end of the tests of proto/carrier/ucx: a process with a carrier, 32 MiB of registered memory, and nothing else
// to do than to send frames back and to land puts. Ends when its input does.
//
//   ucx_echo ADDRESS               listens there, in this network
//   ucx_echo ADDRESS IP-COMMANDS   in a network of its own: says so, waits for a line, runs the commands, then listens
//
// Output: one line "ready" (own network only), then one line "ADDRESS KEY-OF-THE-REGION-IN-HEX".
// Input: lines "KEY-IN-HEX": one connection with that key is let in.
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/carrier/ucx/ucx_carrier.h"
#include "tests/support/own_network.h"

namespace {

int Fail(const std::string& why) {
  std::cerr << "ucx_echo: " << why << "\n";
  return 1;
}

int Serve(muond::ShardCarrier& carrier) {
  std::string input;
  for (;;) {
    pollfd entries[2] = {{carrier.event_descriptor(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    if (::poll(entries, 2, -1) < 0) continue;
    if (entries[1].revents != 0) {
      char buffer[4096];
      const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof(buffer));
      if (n <= 0) return 0;
      input.append(buffer, static_cast<size_t>(n));
      for (size_t end; (end = input.find('\n')) != std::string::npos; input.erase(0, end + 1)) {
        const std::string bytes = absl::HexStringToBytes(input.substr(0, end));
        muond::AdmissionKey key{};
        if (bytes.size() != key.size()) return Fail("a key of a wrong size");
        std::transform(bytes.begin(), bytes.end(), key.begin(),
                       [](char c) { return static_cast<std::byte>(c); });
        if (auto status = carrier.Admit(key, 0); !status.ok()) return Fail(status.ToString());
      }
    }
    std::vector<muond::CarrierEvent> events;
    carrier.Poll(&events);
    for (const muond::CarrierEvent& event : events) {
      if (event.kind == muond::CarrierEventKind::kFrame)
        (void)carrier.Send(event.peer, event.frame);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return Fail("give an address");
  if (argc > 2) {
    if (const auto refusal = muond::MoveIntoOwnNetwork(); !refusal.empty()) return Fail(refusal);
    std::cout << "ready" << std::endl;
    char go;
    do {
      if (::read(STDIN_FILENO, &go, 1) != 1) return Fail("nobody said go");
    } while (go != '\n');
    if (std::system(argv[2]) != 0) return Fail(argv[2]);
  }
  muond::UcxOptions options;
  options.listen = argv[1];
  options.transports = "tcp,self";
  options.liveness = {.heartbeat_ns = 50'000'000, .silence_ns_max = 1'000'000'000};
  auto carrier = muond::CreateUcxCarrier(options);
  if (!carrier.ok()) return Fail(carrier.status().ToString());
  std::vector<uint8_t> memory(size_t{32} << 20, 0);
  const auto region = (*carrier)->Register(memory.data(), memory.size());
  if (!region.ok()) return Fail(region.status().ToString());
  std::cout << (*carrier)->address() << " " << absl::BytesToHexString(region->key) << std::endl;
  return Serve(**carrier);
}
