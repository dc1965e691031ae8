// Election: which of several coordinators leads. They share an etcd; who makes the leader's key, bound to a lease, leads until
// the lease ends. The others look at the key, and take it when it is gone.
//   * A leader answers only while its lease is sure to hold by its own steady clock, counted from before the beat that renewed
//     it: one that was stopped and goes on finds that it may not answer.
//   * Its store writes on the condition that the key is the one it made (etcd_store.h): what it had begun fails.
// Threads: one of its own; Sit from any.   Units: `ttl` in whole seconds, 2 at least (etcd's least).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/etcd_stub.h"
#include "server/coordinator/seat.h"
#include "server/coordinator/store.h"

namespace muond {

struct ElectionOptions {
  std::shared_ptr<EtcdStub> etcd;
  std::string prefix;    // of all keys, with its slash
  std::string endpoint;  // of this coordinator, as others reach it
  absl::Duration ttl = absl::Seconds(2);
  // Makes the coordinator that leads, from what the store holds. On the election's thread or another of its own.
  std::function<absl::StatusOr<std::unique_ptr<Coordinator>>(std::unique_ptr<Store>)> take_up;
};

class Election : public Seat {
 public:
  static std::unique_ptr<Election> Start(ElectionOptions options);
  virtual bool leads() = 0;
  virtual std::string leader() = 0;  // its endpoint; empty: nobody known
  // Resigns, so that another need not wait for the lease to end; then Sit is UNAVAILABLE. Also by the destructor.
  virtual void Stop() = 0;
};

}  // namespace muond
