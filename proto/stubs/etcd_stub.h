// EtcdStub: the calls of an etcd that a coordinator's store needs, as plain functions.
// Threads: safe from any thread.
// Errors:  UNAVAILABLE or DEADLINE_EXCEEDED when no endpoint answered: of a transaction it is then unknown whether it took
//          place. Otherwise etcd's own status.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/stub_options.h"

namespace muond {

struct EtcdOp {
  enum class Kind : uint8_t { kPut, kErase, kErasePrefix };
  Kind kind = Kind::kPut;
  std::string key;
  std::string value;
  int64_t lease = 0;  // kPut: the key ends with it; 0: it stays
};

// True as long as `key` was last created by that revision; 0: as long as it is not there.
struct EtcdCondition {
  std::string key;
  int64_t create_revision = 0;
};

struct EtcdValue {
  std::string key, value;
  int64_t create_revision = 0;
};

// What etcd takes at once by default: 128 operations, 1.5 MiB of request.
inline constexpr size_t kEtcdOpsMax = 100;
inline constexpr size_t kEtcdBytesMax = 1'000'000;

class EtcdStub {
 public:
  // `endpoints`: host:port with commas between; the next one is tried when one does not answer within the options' timeout.
  static absl::StatusOr<std::unique_ptr<EtcdStub>> Create(const std::string& endpoints,
                                                          const StubOptions& options);
  ~EtcdStub();
  EtcdStub(const EtcdStub&) = delete;
  EtcdStub& operator=(const EtcdStub&) = delete;

  // All pairs whose key starts with `prefix`, by key, as they were at one moment.
  absl::StatusOr<std::vector<EtcdValue>> Scan(const std::string& prefix);
  // The pair of `key`; with an empty key and revision 0 when there is none.
  absl::StatusOr<EtcdValue> Get(const std::string& key);

  struct Outcome {
    bool done = false;     // the condition held, and all of it was done
    int64_t revision = 0;  // of the store after it
  };
  // All of `ops`, or nothing, if `condition` holds. No key may be named twice, nor under a prefix that is erased.
  absl::StatusOr<Outcome> Transact(const EtcdCondition& condition, const std::vector<EtcdOp>& ops);

  absl::StatusOr<int64_t> Grant(absl::Duration ttl);        // the lease; etcd counts whole seconds
  absl::StatusOr<absl::Duration> KeepAlive(int64_t lease);  // what it has left; zero: it is gone
  absl::Status Revoke(int64_t lease);

 private:
  struct Impl;
  explicit EtcdStub(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace muond
