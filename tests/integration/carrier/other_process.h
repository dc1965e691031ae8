// A ucx_echo process and our own carrier beside it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"
#include "proto/carrier/ucx/ucx_carrier.h"
#include "tests/support/carrier_events.h"

namespace muond {

class OtherProcess {
 public:
  // Starts ucx_echo with these arguments.
  explicit OtherProcess(std::vector<std::string> arguments) {
    int to[2], from[2];
    if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) return;
    arguments.insert(arguments.begin(), UCX_ECHO);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(to[0], STDIN_FILENO);
      ::dup2(from[1], STDOUT_FILENO);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(to[0]);
    ::close(from[1]);
    to_ = to[1];
    from_ = from[0];
  }
  ~OtherProcess() {
    ::close(to_);
    ::close(from_);
    if (pid_ <= 0) return;
    ::kill(pid_, SIGCONT);
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void Kill(int signal) { ::kill(pid_, signal); }
  // One line of its output; empty when it ended.
  std::string Line() {
    std::string line;
    for (char c; ::read(from_, &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }
  void Say(const std::string& line) {
    const std::string text = line + "\n";
    ASSERT_EQ(::write(to_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  // Reads where it listens and what it registered.
  bool Listens() {
    const std::string line = Line();
    const size_t space = line.find(' ');
    if (space == std::string::npos) return false;
    address_ = line.substr(0, space);
    region_key_ = absl::HexStringToBytes(line.substr(space + 1));
    return true;
  }
  AdmissionKey Admit() {
    const AdmissionKey key = *NewAdmissionKey();
    Say(absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(key.data()), key.size())));
    return key;
  }
  const std::string& address() const { return address_; }
  const std::string& region_key() const { return region_key_; }

 private:
  pid_t pid_ = -1;
  int to_ = -1, from_ = -1;
  std::string address_, region_key_;
};

// Our end, impatient: silence of 1 s is death.
inline std::unique_ptr<ShardCarrier> OurEnd(int64_t join_ns_max = 10'000'000'000) {
  UcxOptions options;
  options.transports = "tcp,self";
  options.liveness = {.heartbeat_ns = 50'000'000, .silence_ns_max = 1'000'000'000};
  options.join_ns_max = join_ns_max;
  auto carrier = CreateUcxCarrier(options);
  EXPECT_TRUE(carrier.ok()) << carrier.status();
  return *std::move(carrier);
}

// Polls until `count` events have come, or half a minute has passed: nothing here takes that long.
inline std::vector<CarrierEvent> AwaitEvents(ShardCarrier& carrier, size_t count) {
  std::vector<CarrierEvent> events;
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (events.size() < count && std::chrono::steady_clock::now() < give_up) {
    Readable(carrier, 100);
    carrier.Poll(&events);
  }
  return events;
}

// A connection that has carried a frame there and back.
inline PeerId ConnectTo(OtherProcess& other, ShardCarrier& ours) {
  const auto peer = ours.Connect(other.address(), other.Admit());
  EXPECT_TRUE(peer.ok()) << peer.status();
  EXPECT_TRUE(ours.Send(*peer, PingFrame(1)).ok());
  const auto events = AwaitEvents(ours, 1);
  EXPECT_EQ(events.size(), 1u);
  if (!events.empty()) {
    EXPECT_EQ(events[0].kind, CarrierEventKind::kFrame) << events[0].status;
  }
  return *peer;
}

// `puts` puts of 32 MiB are under way or wait: each ends once, at least one without success, then the peer is gone.
inline void ExpectDeath(ShardCarrier& ours, PeerId peer, size_t puts) {
  const auto events = AwaitEvents(ours, puts + 1);
  ASSERT_EQ(events.size(), puts + 1);
  std::vector<int> ended(puts, 0);
  size_t failed = 0;
  for (size_t i = 0; i < puts; ++i) {
    ASSERT_EQ(events[i].kind, CarrierEventKind::kPutDone);
    ASSERT_LT(events[i].token, puts);
    ++ended[events[i].token];
    if (!events[i].status.ok()) ++failed;
  }
  EXPECT_EQ(ended, std::vector<int>(puts, 1));
  EXPECT_GT(failed, 0u);
  EXPECT_EQ(events[puts].kind, CarrierEventKind::kPeerGone);
  EXPECT_EQ(events[puts].peer, peer);
  EXPECT_EQ(ours.puts_pending(), 0u);
}

inline void StartPuts(OtherProcess& other, ShardCarrier& ours, PeerId peer,
                      const std::vector<uint8_t>& bytes, size_t puts) {
  const auto region = ours.ImportRegion(peer, other.region_key());
  ASSERT_TRUE(region.ok()) << region.status();
  for (uint64_t i = 0; i < puts; ++i)
    ASSERT_TRUE(ours.Put({peer, *region, 0, bytes.data(), bytes.size(), i}).ok());
}

}  // namespace muond
