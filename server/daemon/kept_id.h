// KeptId: a daemon's id with its coordinator, in a file, for the next stepper (and, in a state directory, for the next start).
// The file is locked while this lives, so that two daemons do not go by one name.
// Threads: one.   Errors: ALREADY_EXISTS: another daemon has it; the file's path is in every text.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

class KeptId {
 public:
  // Makes the file where there is none.
  static absl::StatusOr<std::unique_ptr<KeptId>> Open(const std::string& path);
  const std::string& id() const { return id_; }  // empty: none is kept yet
  absl::Status Keep(const std::string& id);      // on disk when it returns

 private:
  KeptId(std::string path, UniqueFd file) : path_(std::move(path)), file_(std::move(file)) {}
  const std::string path_;
  const UniqueFd file_;
  std::string id_;
};

}  // namespace muond
