// The UCX carrier between two processes: what dies, stops, or is cut off is noticed.
#include <dirent.h>
#include <fcntl.h>

#include <algorithm>

#include "tests/integration/carrier/other_process.h"

namespace muond {
namespace {

constexpr size_t kBytes = size_t{32} << 20;

size_t OpenDescriptors() {
  size_t count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

TEST(UcxProcessesTest, FramesAndShardsArriveInAnotherProcess) {
  OtherProcess other({"127.0.0.1:0"});
  ASSERT_TRUE(other.Listens());
  auto ours = OurEnd();
  const PeerId peer = ConnectTo(other, *ours);
  const std::vector<uint8_t> bytes(kBytes, 7);
  StartPuts(other, *ours, peer, bytes, 4);
  const auto events = AwaitEvents(*ours, 4);
  ASSERT_EQ(events.size(), 4u);
  for (const auto& event : events) EXPECT_TRUE(event.status.ok()) << event.status;
}

TEST(UcxProcessesTest, APeerThatIsKilledIsGoneAndItsPutsEnd) {
  auto ours = OurEnd();
  const std::vector<uint8_t> bytes(kBytes, 7);
  size_t descriptors = 0;
  for (int round = 0; round < 6; ++round) {
    {
      OtherProcess other({"127.0.0.1:0"});
      ASSERT_TRUE(other.Listens());
      const PeerId peer = ConnectTo(other, *ours);
      StartPuts(other, *ours, peer, bytes, 8);
      std::vector<CarrierEvent> early;  // killed at another point of the stream each time
      for (int turn = 0; turn < round * 7; ++turn) ours->Poll(&early);
      ASSERT_TRUE(early.empty());
      other.Kill(SIGKILL);
      ExpectDeath(*ours, peer, 8);
    }
    if (round == 1) descriptors = OpenDescriptors();
  }
  EXPECT_LE(OpenDescriptors(), descriptors);
}

TEST(UcxProcessesTest, APeerThatIsStoppedIsGoneThoughItsSocketsStand) {
  OtherProcess other({"127.0.0.1:0"});
  ASSERT_TRUE(other.Listens());
  auto ours = OurEnd();
  const PeerId peer = ConnectTo(other, *ours);
  other.Kill(SIGSTOP);
  const std::vector<uint8_t> bytes(kBytes, 7);
  StartPuts(other, *ours, peer, bytes, 3);
  ExpectDeath(*ours, peer, 3);
  // It goes on, finds us gone, and lets a new connection in.
  other.Kill(SIGCONT);
  ConnectTo(other, *ours);
}

TEST(UcxProcessesTest, OurOwnSleepIsNotThePeersSilence) {
  OtherProcess other({"127.0.0.1:0"});
  ASSERT_TRUE(other.Listens());
  UcxOptions
      patient;  // the other end, at 1 s, would give us up: so it is stopped as long as we sleep
  patient.transports = "tcp,self";
  patient.liveness = {.heartbeat_ns = 20'000'000, .silence_ns_max = 50'000'000};
  auto ours = CreateUcxCarrier(patient);
  ASSERT_TRUE(ours.ok());
  const auto peer = (*ours)->Connect(other.address(), other.Admit());
  ASSERT_TRUE(peer.ok());
  ASSERT_TRUE((*ours)->Send(*peer, PingFrame(1)).ok());
  ASSERT_EQ(AwaitEvents(**ours, 1).at(0).kind, CarrierEventKind::kFrame);
  ::usleep(200'000);  // four times the silence that we allow, and less than the other end allows
  ASSERT_TRUE((*ours)->Send(*peer, PingFrame(2)).ok());
  EXPECT_EQ(AwaitEvents(**ours, 1).at(0).kind, CarrierEventKind::kFrame);
}

}  // namespace
}  // namespace muond
