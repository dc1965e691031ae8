// A stepper that computes nothing: it keeps slabs, counts its starts in them, echoes frames, and
// writes down what it sees.
//   test_stepper REPORT MODE SLABS --stepper-starts=N
// MODE: serve | die-at-start | fail-at-start | never-drain (nor finish)
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/ipc_carrier.h"
#include "server/keeper/keeper_client.h"
#include "server/keeper/stepper_process.h"

namespace muond {
namespace {

constexpr uint64_t kSession = 42;
constexpr size_t kSlabBytes = 4096;

int Main(int argc, char** argv) {
  if (argc != 5) return 2;
  const int report = ::open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const std::string mode = argv[2];
  const uint64_t slabs = std::strtoull(argv[3], nullptr, 10);
  const auto tell = [report](const std::string& line) {
    const std::string text = line + "\n";
    if (::write(report, text.data(), text.size()) < 0) std::abort();
  };
  tell(absl::StrCat("start ", argv[4], " pid ", ::getpid()));
  if (mode == "die-at-start") ::raise(SIGKILL);
  if (mode == "fail-at-start") return 1;

  auto client = KeeperClient::Create(UniqueFd(kStepperChannelFd));
  if (!client.ok()) return 9;
  KeeperClient& keeper = **client;
  const auto kept = keeper.TakeKeptSlabs();
  if (kept.empty()) {
    for (uint64_t slab = 1; slab <= slabs; ++slab) {
      UniqueFd memory(::memfd_create("test slab", MFD_CLOEXEC));
      const uint64_t content[2] = {slab * 1'000'003, 1};
      if (::ftruncate(memory.get(), kSlabBytes) != 0) return 8;
      if (::pwrite(memory.get(), content, sizeof(content), 0) != sizeof(content)) return 8;
      SlabInfo info;
      info.slab = slab;
      info.kind = SlabKind::kState;
      info.size_bytes = kSlabBytes;
      info.label = absl::StrCat("slab ", slab);
      if (!keeper.Keep(info, memory.get()).ok() || !keeper.Grant(kSession, slab).ok()) return 7;
    }
  } else {
    uint64_t intact = 0, starts = 0;
    for (uint64_t i = 0; i < kept.size(); ++i) {
      uint64_t content[2] = {};
      if (::pread(kept[i].descriptor.get(), content, sizeof(content), 0) != sizeof(content))
        return 8;
      intact += kept[i].info.slab == i + 1 && content[0] == kept[i].info.slab * 1'000'003 &&
                kept[i].info.label == absl::StrCat("slab ", i + 1) &&
                kept[i].info.size_bytes == kSlabBytes;
      starts = ++content[1];
      if (::pwrite(kept[i].descriptor.get(), content, sizeof(content), 0) != sizeof(content))
        return 8;
    }
    tell(absl::StrCat("kept ", kept.size(), " intact ", intact, " generation ", starts));
  }
  auto frames = ListenIpc(UniqueFd(kStepperFramesFd));
  if (!frames.ok() || !keeper.Ready().ok()) return 6;
  tell("serving");

  for (;;) {
    pollfd wait[2] = {{keeper.event_descriptor(), POLLIN, 0},
                      {(*frames)->event_descriptor(), POLLIN, 0}};
    if (::poll(wait, 2, -1) < 0) continue;
    const auto events = keeper.Poll();
    if (!events.ok()) return 0;
    for (const KeeperEvent& event : *events) {
      if (event.kind == KeeperEventKind::kRankGone) tell(absl::StrCat("gone ", event.session));
      if (event.kind == KeeperEventKind::kRankGone) continue;
      tell(event.kind == KeeperEventKind::kDrain ? "drain" : "finish");
      if (mode != "never-drain") return keeper.Stop().ok() ? 0 : 5;
    }
    std::vector<CarrierEvent> arrived;
    (*frames)->Poll(&arrived);
    for (const CarrierEvent& event : arrived) {
      if (event.kind == CarrierEventKind::kFrame && !(*frames)->Send(event.peer, event.frame).ok())
        return 4;
    }
  }
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) { return muond::Main(argc, argv); }
