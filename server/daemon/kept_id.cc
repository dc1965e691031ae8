#include "server/daemon/kept_id.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr size_t kIdBytes = 32;  // hexadecimal digits

}  // namespace

absl::StatusOr<std::unique_ptr<KeptId>> KeptId::Open(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!file.valid()) return ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK)
      return absl::AlreadyExistsError(absl::StrCat("another daemon keeps its id in ", path));
    return ErrnoToStatus(errno, absl::StrCat("cannot lock ", path));
  }
  std::unique_ptr<KeptId> kept(new KeptId(path, std::move(file)));
  char text[kIdBytes + 2];
  const ssize_t size = ::pread(kept->file_.get(), text, sizeof text, 0);
  if (size < 0) return ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
  if (size == 0) return kept;
  kept->id_.assign(text, static_cast<size_t>(size));
  if (kept->id_.back() == '\n') kept->id_.pop_back();
  if (kept->id_.size() != kIdBytes ||
      kept->id_.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return absl::DataLossError(absl::StrCat(path, " holds no daemon's id (", kIdBytes,
                                            " hexadecimal digits): remove the file"));
  }
  return kept;
}

absl::Status KeptId::Keep(const std::string& id) {
  const std::string line = id + "\n";
  errno = ENOSPC;  // of a write that is cut short
  if (::ftruncate(file_.get(), 0) != 0 ||
      ::pwrite(file_.get(), line.data(), line.size(), 0) != static_cast<ssize_t>(line.size()) ||
      ::fsync(file_.get()) != 0) {
    const absl::Status status = ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
    if (::ftruncate(file_.get(), 0) != 0) return status;  // its start is no id either, and refused
    return status;
  }
  id_ = id;
  return absl::OkStatus();
}

}  // namespace muond
