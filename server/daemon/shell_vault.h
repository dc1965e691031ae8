// ShellVault: the keeper as the StepLoop sees it, with the shell listening in: a drain, or the end, is the shell's to time.
// Threads: the StepLoop.
#pragma once

#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/daemon/slab_vault.h"

namespace muond {

class ShellVault final : public KeeperVault {
 public:
  // Both run within Poll, on the loop's thread. `client` is borrowed.
  ShellVault(KeeperClient* client, absl::AnyInvocable<void()> on_drain,
             absl::AnyInvocable<void()> on_finish)
      : KeeperVault(client), on_drain_(std::move(on_drain)), on_finish_(std::move(on_finish)) {}
  absl::StatusOr<std::vector<KeeperEvent>> Poll() override {
    auto events = KeeperVault::Poll();
    if (events.ok()) {
      for (const KeeperEvent& event : *events) {
        if (event.kind == KeeperEventKind::kDrain) on_drain_();
        if (event.kind == KeeperEventKind::kFinish) on_finish_();
      }
    }
    return events;
  }

 private:
  absl::AnyInvocable<void()> on_drain_, on_finish_;
};

}  // namespace muond
