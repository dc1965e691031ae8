// ShellVault: the keeper as the StepLoop sees it, with the shell listening in: a drain is the shell's to time.
// Threads: the StepLoop.
#pragma once

#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/daemon/slab_vault.h"

namespace muond {

class ShellVault final : public SlabVault {
 public:
  // `on_drain` runs within Poll, on the loop's thread. `client` is borrowed.
  ShellVault(KeeperClient* client, absl::AnyInvocable<void()> on_drain)
      : keeper_(client), on_drain_(std::move(on_drain)) {}
  std::vector<KeptSlab> TakeKeptSlabs() override { return keeper_.TakeKeptSlabs(); }
  absl::Status Keep(const SlabInfo& info, int descriptor) override {
    return keeper_.Keep(info, descriptor);
  }
  absl::Status Drop(uint64_t slab) override { return keeper_.Drop(slab); }
  absl::Status Grant(uint64_t session, uint64_t slab) override {
    return keeper_.Grant(session, slab);
  }
  absl::Status Revoke(uint64_t session) override { return keeper_.Revoke(session); }
  int event_descriptor() const override { return keeper_.event_descriptor(); }
  absl::StatusOr<std::vector<KeeperEvent>> Poll() override {
    auto events = keeper_.Poll();
    if (events.ok()) {
      for (const KeeperEvent& event : *events) {
        if (event.kind == KeeperEventKind::kDrain) on_drain_();
      }
    }
    return events;
  }

 private:
  KeeperVault keeper_;
  absl::AnyInvocable<void()> on_drain_;
};

}  // namespace muond
