// Store: what a coordinator must not forget. Keys and values are bytes; a commit is all or nothing, and is on disk when
// it returns. The seam is what etcd offers, too: puts, deletes by prefix, one transaction, a scan by prefix.
// Threads: one caller at a time.   Errors: INTERNAL or UNAVAILABLE with the store's own words; a failed commit changed
// nothing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace muond {

struct Change {
  enum class Kind : uint8_t { kPut, kErasePrefix };
  Kind kind = Kind::kPut;
  std::string key;  // kErasePrefix: of all keys that start with it
  std::string value;
};

class Store {
 public:
  virtual ~Store() = default;
  virtual absl::Status Commit(absl::Span<const Change> changes) = 0;  // in order
  // All pairs whose key starts with `prefix`, by key.
  virtual absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Scan(
      std::string_view prefix) = 0;
};

std::unique_ptr<Store> CreateMemoryStore();  // forgets with its process

// A SQLite file (write-ahead log, synced at every commit), made when it is not there. UNAVAILABLE when another process
// has it open, FAILED_PRECONDITION when it is of another schema, DATA_LOSS when it is no such file or is damaged.
absl::StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const std::string& path);

}  // namespace muond
