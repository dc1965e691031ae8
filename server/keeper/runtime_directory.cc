#include "server/keeper/runtime_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

constexpr const char* kSocketNames[] = {kKeeperSocketName, kFrameSocketName, kGrpcSocketName};
// SQLite's companions of a file have its name and these endings.
constexpr const char* kCatalogEndings[] = {"", "-wal", "-shm", "-journal"};
constexpr int kBacklog = 1024;  // ranks that connect while no stepper runs just wait here

absl::Status Inhabited(const std::string& path) {
  // The listening socket carries its maker's credentials.
  std::string who = "its pid is not known";
  if (auto socket = ConnectSeqpacket(path + "/" + kKeeperSocketName); socket.ok()) {
    if (auto peer = PeerOf(socket->get()); peer.ok()) who = absl::StrCat("pid ", peer->pid);
  }
  return absl::AlreadyExistsError(absl::StrCat("a daemon lives in ", path, " already (", who, ")"));
}

// Opens and locks what `path` names now; a directory that is removed meanwhile is tried again.
absl::StatusOr<UniqueFd> OpenLocked(const std::string& path, bool* created) {
  *created = false;
  for (int attempt = 0; attempt < 16; ++attempt) {
    if (::mkdir(path.c_str(), 0700) == 0) {
      *created = true;
    } else if (errno != EEXIST) {
      return ErrnoToStatus(errno, absl::StrCat("cannot create the runtime directory ", path));
    }
    UniqueFd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) {
      if (errno == ENOENT) continue;
      return ErrnoToStatus(errno, absl::StrCat("cannot open the runtime directory ", path));
    }
    if (::flock(directory.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return Inhabited(path);
      return ErrnoToStatus(errno, absl::StrCat("cannot lock the runtime directory ", path));
    }
    struct stat opened {
    }, named{};
    if (::fstat(directory.get(), &opened) == 0 && ::stat(path.c_str(), &named) == 0 &&
        opened.st_ino == named.st_ino && opened.st_dev == named.st_dev) {
      return directory;
    }
  }
  return absl::UnavailableError(
      absl::StrCat("the runtime directory ", path, " keeps being removed"));
}

absl::Status CheckOwner(const std::string& path, int directory) {
  struct stat info {};
  if (::fstat(directory, &info) != 0) return ErrnoToStatus(errno, absl::StrCat("fstat ", path));
  if (info.st_uid != ::geteuid()) {
    return absl::FailedPreconditionError(absl::StrCat("the runtime directory ", path,
                                                      " belongs to uid ", info.st_uid,
                                                      ", this process is uid ", ::geteuid()));
  }
  if (info.st_mode & 0022) {
    return absl::FailedPreconditionError(
        absl::StrFormat("others may write to the runtime directory %s: mode is %04o, expected 0700",
                        path, static_cast<unsigned>(info.st_mode & 07777)));
  }
  return absl::OkStatus();
}

void RemoveStepperFiles(const std::string& directory) {
  ::unlink((directory + "/" + kDaemonIdName).c_str());
  ::unlink((directory + "/" + kMetricsPortName).c_str());
  ::unlink((directory + "/" + kShardPortName).c_str());
  for (const char* ending : kCatalogEndings)
    ::unlink((directory + "/" + kCatalogName + ending).c_str());
}

absl::Status RemoveStale(const std::string& path, bool* found) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus() : ErrnoToStatus(errno, absl::StrCat("lstat ", path));
  }
  if (!S_ISSOCK(info.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is in the way and is no socket: remove it"));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoToStatus(errno, absl::StrCat("cannot remove the stale socket ", path));
  }
  *found = true;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RuntimeDirectory>> RuntimeDirectory::Create(const std::string& path,
                                                                           bool remove_at_end) {
  for (const char* name : kSocketNames) {
    if (auto status = CheckSocketPath(path + "/" + name); !status.ok()) return status;
  }
  bool created = false;
  auto lock = OpenLocked(path, &created);
  if (!lock.ok()) return lock.status();
  if (auto status = CheckOwner(path, lock->get()); !status.ok()) return status;
  bool stale = false;
  for (const char* name : kSocketNames) {
    if (auto status = RemoveStale(path + "/" + name, &stale); !status.ok()) return status;
  }
  RemoveStepperFiles(path);  // of a daemon that is gone
  // From here on the destructor cleans up.
  std::unique_ptr<RuntimeDirectory> directory(
      new RuntimeDirectory(path, created || stale || remove_at_end, *std::move(lock)));
  auto keeper = ListenSeqpacket(directory->PathOf(kKeeperSocketName), kBacklog);
  if (!keeper.ok()) return keeper.status();
  directory->keeper_socket_ = *std::move(keeper);
  auto frames = ListenSeqpacket(directory->PathOf(kFrameSocketName), kBacklog);
  if (!frames.ok()) return frames.status();
  directory->frame_socket_ = *std::move(frames);
  return directory;
}

RuntimeDirectory::~RuntimeDirectory() {
  for (const char* name : kSocketNames) ::unlink(PathOf(name).c_str());
  RemoveStepperFiles(path_);
  if (remove_at_end_) ::rmdir(path_.c_str());
}

}  // namespace muond
