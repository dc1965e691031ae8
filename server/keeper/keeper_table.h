// KeeperTable: which slabs are kept, which session may fetch which, and which sessions have lost
// their rank. Bookkeeping only: descriptors, sockets and processes are keeper.cc's. Threads: one.
// Units: bytes.   Errors: what is refused changes nothing; the message has the numbers.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/keeper/slab_info.h"

namespace muond {

inline constexpr size_t kSlabsKeptMax = 65'536;
inline constexpr size_t kSessionsGrantedMax = 16'384;
inline constexpr size_t kGrantsPerSessionMax = 4'096;

class KeeperTable {
 public:
  absl::Status Keep(const SlabInfo& info);
  absl::Status Drop(uint64_t slab);                     // also out of every grant
  absl::Status Grant(uint64_t session, uint64_t slab);  // twice is once
  // False when the session is not known (its last grant may be gone already).
  bool Revoke(uint64_t session);

  // What a rank that names `session` gets, in the order of the grants. PERMISSION_DENIED when there
  // is no such session: the text never tells whether it once was.
  absl::StatusOr<std::vector<uint64_t>> Fetch(uint64_t session) const;
  // A connection was served for the session, or ended. Disconnected is true when the rank is gone
  // by that: the session is known and this was its last connection.
  void Connected(uint64_t session);
  bool Disconnected(uint64_t session);
  // Sessions whose rank went and that nobody revoked since: what a new stepper must be told.
  std::vector<uint64_t> GoneSessions() const;

  const SlabInfo* Find(uint64_t slab) const;   // nullptr; valid until the table changes
  std::vector<uint64_t> SlabsInOrder() const;  // as they were kept
  size_t slabs() const { return slabs_.size(); }
  size_t sessions() const { return sessions_.size(); }
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  struct Kept {
    SlabInfo info;
    uint64_t sequence;
  };
  struct Session {
    std::vector<uint64_t> slabs;
    int connections = 0;
    bool gone = false;
  };
  std::map<uint64_t, Kept> slabs_;
  std::map<uint64_t, Session> sessions_;
  uint64_t next_sequence_ = 1;
  uint64_t total_bytes_ = 0;
};

}  // namespace muond
