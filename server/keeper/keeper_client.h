// KeeperClient: the stepper's side of its socketpair with the keeper.
// What was sent before the stepper dies counts: the keeper reads the socket to its end before it
// starts the next stepper, and reads it before it answers any rank. So nothing here waits for an
// answer: Grant, then tell the rank. Threads: the StepLoop thread is the only caller (Create may
// run before it starts). Errors:  UNAVAILABLE: the keeper is gone; the process is about to be
// killed by the kernel, give up quietly.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/carrier/ipc/descriptor_channel.h"
#include "server/keeper/slab_info.h"

namespace muond {

struct KeptSlab {
  SlabInfo info;
  UniqueFd descriptor;
};

enum class KeeperEventKind : uint8_t { kRankGone = 1, kDrain = 2, kFinish = 3 };
struct KeeperEvent {
  KeeperEventKind kind = KeeperEventKind::kRankGone;
  uint64_t session = 0;  // kRankGone
};

class KeeperClient {
 public:
  // Blocks until every kept slab has come (kEnd). An empty list: this is the first start, or no job
  // runs.
  static absl::StatusOr<std::unique_ptr<KeeperClient>> Create(UniqueFd socket);
  // What the dead stepper left, in the order it was kept. The caller takes it.
  std::vector<KeptSlab> TakeKeptSlabs() { return std::move(kept_); }

  // The jobs of those slabs, until they are taken.
  std::vector<uint64_t> KeptJobs() const;

  // `descriptor` is borrowed: the keeper gets its own. Kept until Drop, whatever happens to this
  // process.
  absl::Status Keep(const SlabInfo& info, int descriptor);
  absl::Status Drop(uint64_t slab);  // its grants go too
  absl::Status Grant(uint64_t session, uint64_t slab);
  absl::Status Revoke(uint64_t session);  // forgets the session; its connection is closed
  absl::Status Ready();                   // serving: called once, by the process shell
  absl::Status Stop();  // drained: the keeper ends too, called by the process shell

  // Readable while there is something to Poll.
  int event_descriptor() const { return channel_.socket(); }
  // Never blocks. A session is told gone once, when its keeper connection ends (also while no
  // stepper ran).
  absl::StatusOr<std::vector<KeeperEvent>> Poll();

 private:
  explicit KeeperClient(UniqueFd socket) : channel_(std::move(socket)) {}
  DescriptorChannel channel_;
  std::vector<KeptSlab> kept_;
};

}  // namespace muond
