// JobLinks: this daemon's connections to the other members of one job, over a ShardCarrier. It opens them, opens them again,
// exchanges the keys of the exchange slabs, and hands frames and finished puts to the job.
//
// The member with the higher number connects to the lower one. The key that lets a connection in follows from the job's secret
// and the two numbers; whoever comes again under it replaces its old connection, which is closed first: what a dead stepper
// still had on the way lands no more. A link is up when the other's region is known here.
// Threads: the StepLoop.   Errors: what cannot be sent is lost, as frames may be; the job repeats what matters.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/runtime/backend.h"
#include "proto/carrier/shard_carrier.h"
#include "proto/types/members.h"
#include "server/peer/exchange_layout.h"
#include "server/peer/key_parts.h"

namespace muond {

class JobLinks;

// Whose events the carrier's are. The loop's; it outlives every JobLinks.
struct LinkTable {
  ShardCarrier* carrier = nullptr;
  absl::Duration peer_timeout =
      absl::Seconds(30);  // a link that is down for longer is a lost member
  absl::flat_hash_map<PeerId, JobLinks*> peers;
  absl::flat_hash_map<uint64_t, JobLinks*> tags;  // of admissions
  uint64_t next_tag = 1;
  std::vector<std::unique_ptr<Slab>>
      retired;  // of jobs that have ended, while puts still read them

  // The links that the event is for; null: none that still are.
  JobLinks* Find(const CarrierEvent& event) const;
};

// What the links tell.
class JobLinksOwner {
 public:
  virtual void LinkIsUp(uint32_t member) = 0;
  virtual void LinkIsDown(uint32_t member) = 0;
  virtual void FrameCame(uint32_t member, const Frame& frame) = 0;
  virtual void PutDone(uint32_t member, uint64_t token, bool arrived) = 0;

 protected:
  ~JobLinksOwner() = default;
};

struct JobLinksOptions {
  LinkTable* table = nullptr;
  JobLinksOwner* owner = nullptr;
  JobMembers members;
  uint32_t self = 0;
  Frame frame;  // job, incarnation and epoch of what is sent; others are ignored
  char* exchange = nullptr;
  uint64_t exchange_bytes = 0;
};

class JobLinks {
 public:
  // Registers the exchange slab, and begins to connect. The slab stays valid until the destructor has run.
  static absl::StatusOr<std::unique_ptr<JobLinks>> Open(JobLinksOptions options);
  ~JobLinks();

  void OnEvent(const CarrierEvent& event);
  void Tick(absl::Time now);
  bool up(uint32_t member) const { return links_[member].remote != 0; }
  absl::Time down_since(uint32_t member) const { return links_[member].down_since; }  // when not up
  // For how long the other may be out of reach: one that never was there may still be attaching its ranks.
  absl::Duration patience(uint32_t member) const;
  uint32_t count() const { return static_cast<uint32_t>(links_.size()); }
  uint32_t self() const { return options_.self; }
  uint64_t job() const { return options_.frame.job; }
  const std::string& NameOf(uint32_t member) const {
    return options_.members.members[member].daemon;
  }

  void Send(uint32_t member, const Frame& frame);  // job, incarnation, epoch are filled in
  // [at, at + bytes) of this exchange slab into the same place of the member's. False: not started.
  bool Put(uint32_t member, uint64_t at, uint64_t bytes, uint64_t token);

 private:
  struct Link {
    PeerId peer = kNoPeer;
    RemoteRegionId remote = 0;  // 0: the link is not up
    KeyParts key;
    bool told = false;  // the other has our key
    bool seen = false;  // it was up once
    absl::Time down_since;
    absl::Time try_at;   // to connect again
    absl::Time tell_at;  // to say our key again
    uint64_t tag = 0;    // of the admission, where the other connects
  };

  explicit JobLinks(JobLinksOptions options);
  AdmissionKey KeyOf(uint32_t acceptor, uint32_t connector) const;
  void Admit(uint32_t member);
  void Connect(uint32_t member, absl::Time now);
  void Begin(uint32_t member, PeerId peer, absl::Time now);
  void Lose(uint32_t member, absl::Time now);
  void TellKey(uint32_t member, absl::Time now);
  void OnFrame(uint32_t member, const Frame& frame, absl::Time now);

  JobLinksOptions options_;
  ShardCarrier& carrier_;
  Region region_;
  std::vector<Link> links_;  // by member; this one's own is unused
};

}  // namespace muond
