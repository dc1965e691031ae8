// RuntimeDirectory: where a daemon's sockets are, and the proof that only one daemon is there.
//
// The directory has mode 0700 and belongs to this user. A lock on the directory itself (flock)
// tells a living daemon from what a killed one left behind: the kernel lets go of it with the
// process, and no file of ours stays. Threads: one.   Errors: the text names the path, the modes,
// the lengths, the living daemon's pid.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

inline constexpr const char* kKeeperSocketName =
    "keeper.sock";  // ranks fetch descriptors (seqpacket)
inline constexpr const char* kFrameSocketName = "frames.sock";  // the step path (seqpacket)
inline constexpr const char* kGrpcSocketName = "grpc.sock";     // the stepper's own door
// Files of the steppers, for the next one; they go with the daemon, as what they speak of does.
inline constexpr const char* kDaemonIdName = "daemon.id";  // the id that the coordinator minted
inline constexpr const char* kMetricsPortName = "metrics.port";  // where 0 was asked for
inline constexpr const char* kShardPortName = "shards.port";     // likewise
inline constexpr const char* kCatalogName = "coordinator.db";    // the embedded coordinator's store

class RuntimeDirectory {
 public:
  // Creates `path` (its parent must be there) or takes it over: stale sockets are removed.
  // ALREADY_EXISTS with the pid when a daemon lives there; FAILED_PRECONDITION when the directory
  // is another user's, or open to others, or a socket's name is taken by something that is no
  // socket; INVALID_ARGUMENT when a socket's path would be too long.
  static absl::StatusOr<std::unique_ptr<RuntimeDirectory>> Create(const std::string& path,
                                                                  bool remove_at_end);
  // Removes the sockets, and the directory, when empty, where a daemon had created it (or with
  // remove_at_end).
  ~RuntimeDirectory();
  RuntimeDirectory(const RuntimeDirectory&) = delete;
  RuntimeDirectory& operator=(const RuntimeDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string PathOf(const char* name) const { return path_ + "/" + name; }
  int keeper_socket() const { return keeper_socket_.get(); }  // listening
  int frame_socket() const { return frame_socket_.get(); }    // listening; each stepper inherits it

 private:
  RuntimeDirectory(std::string path, bool remove_at_end, UniqueFd lock)
      : path_(std::move(path)), remove_at_end_(remove_at_end), lock_(std::move(lock)) {}
  const std::string path_;
  const bool remove_at_end_;
  UniqueFd lock_;
  UniqueFd keeper_socket_, frame_socket_;
};

}  // namespace muond
