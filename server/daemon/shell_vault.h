// ShellVault: the keeper as the StepLoop sees it, with the shell listening in: a drain is the shell's to time.
// Threads: the StepLoop.
#pragma once

#include <vector>

#include "absl/functional/any_invocable.h"
#include "server/daemon/slab_vault.h"

namespace muond {

class ShellVault final : public KeeperVault {
 public:
  // `on_drain` runs within Poll, on the loop's thread. `client` is borrowed.
  ShellVault(KeeperClient* client, absl::AnyInvocable<void()> on_drain)
      : KeeperVault(client), on_drain_(std::move(on_drain)) {}
  absl::StatusOr<std::vector<KeeperEvent>> Poll() override {
    auto events = KeeperVault::Poll();
    if (events.ok()) {
      for (const KeeperEvent& event : *events) {
        if (event.kind == KeeperEventKind::kDrain) on_drain_();
      }
    }
    return events;
  }

 private:
  absl::AnyInvocable<void()> on_drain_;
};

}  // namespace muond
