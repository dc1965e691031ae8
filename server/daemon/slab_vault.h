// SlabVault: where the StepLoop leaves what must outlive it. The keeper process behind KeeperClient in a daemon, a table of
// descriptors in tests. What was given before this process dies counts.
// Threads: the StepLoop.   Errors: UNAVAILABLE: the keeper is gone, and so will this process be.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/keeper/keeper_client.h"

namespace muond {

class SlabVault {
 public:
  virtual ~SlabVault() = default;
  virtual std::vector<KeptSlab> TakeKeptSlabs() = 0;
  virtual absl::Status Keep(const SlabInfo& info, int descriptor) = 0;  // `descriptor` is borrowed
  virtual absl::Status Drop(uint64_t slab) = 0;
  virtual absl::Status Grant(uint64_t session, uint64_t slab) = 0;
  virtual absl::Status Revoke(uint64_t session) = 0;
  virtual int event_descriptor() const = 0;  // readable while Poll has something; -1: never
  virtual absl::StatusOr<std::vector<KeeperEvent>> Poll() = 0;
};

// The keeper process. `client` is borrowed.
class KeeperVault : public SlabVault {
 public:
  explicit KeeperVault(KeeperClient* client) : client_(*client) {}
  std::vector<KeptSlab> TakeKeptSlabs() override { return client_.TakeKeptSlabs(); }
  absl::Status Keep(const SlabInfo& info, int descriptor) override {
    return client_.Keep(info, descriptor);
  }
  absl::Status Drop(uint64_t slab) override { return client_.Drop(slab); }
  absl::Status Grant(uint64_t session, uint64_t slab) override {
    return client_.Grant(session, slab);
  }
  absl::Status Revoke(uint64_t session) override { return client_.Revoke(session); }
  int event_descriptor() const override { return client_.event_descriptor(); }
  absl::StatusOr<std::vector<KeeperEvent>> Poll() override { return client_.Poll(); }

 private:
  KeeperClient& client_;
};

}  // namespace muond
