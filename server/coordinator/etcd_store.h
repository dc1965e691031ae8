// A Store in etcd, for whoever leads: every write is a transaction on the condition that the leader's key is still the one
// that was made when this process won it, so that a leader that has lost its lease writes nothing.
// The pairs are read once and kept; nobody else writes while the condition holds.
//   PREFIX format        "1"
//   PREFIX leader        the leader's endpoint, bound to its lease (election.h)
//   PREFIX kv/KEY\0NNNNNN  a value in pieces of 500,000 bytes: etcd takes 1.5 MiB and 128 operations at once
//   PREFIX redo/NNNNNN   operations of a commit that is more than that, and redo/commit, the number of them: from that
//                        write on the commit holds; whoever opens the store next finishes it
// Threads: one caller at a time.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/stubs/etcd_stub.h"
#include "server/coordinator/store.h"

namespace muond {

struct EtcdStoreOptions {
  std::shared_ptr<EtcdStub> etcd;
  std::string prefix;   // with its slash at the end
  EtcdCondition fence;  // on the leader's key
  // Set when a commit failed: whether it took place may be unknown, so this store is of no more use, and every later commit is
  // UNAVAILABLE. Whoever opens it again reads what holds.
  std::shared_ptr<std::atomic<bool>> lost;
};

// UNAVAILABLE when etcd does not answer or the fence does not hold, FAILED_PRECONDITION when the prefix holds another format,
// DATA_LOSS for pairs that do not parse.
absl::StatusOr<std::unique_ptr<Store>> OpenEtcdStore(EtcdStoreOptions options);

}  // namespace muond
