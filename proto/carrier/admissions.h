// Admissions: the keys that were given out and wait for their connection. Bookkeeping shared by the shard carriers.
// Threads: those of its carrier.   Errors: a refused key changes nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "proto/carrier/shard_carrier.h"

namespace muond {

class Admissions {
 public:
  // ALREADY_EXISTS, RESOURCE_EXHAUSTED: as ShardCarrier::Admit says.
  absl::Status Add(const AdmissionKey& key, uint64_t tag);
  void Withdraw(const AdmissionKey& key);
  // The tag of a key that waits, once. Takes the same time whichever key it is given.
  std::optional<uint64_t> Take(const AdmissionKey& key);
  size_t size() const { return waiting_.size(); }

 private:
  struct Waiting {
    AdmissionKey key;
    uint64_t tag;
  };
  std::vector<Waiting>::iterator Find(const AdmissionKey& key);
  std::vector<Waiting> waiting_;
};

}  // namespace muond
