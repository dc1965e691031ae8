#include "proto/carrier/ipc/unix_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace muond {
namespace {

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  if (auto status = CheckSocketPath(path); !status.ok()) return status;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> SeqpacketSocket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "socket(AF_UNIX, SOCK_SEQPACKET)");
  return fd;
}

}  // namespace

absl::Status ErrnoToStatus(int error, const std::string& what) {
  const std::string message =
      absl::StrCat(what, ": ", std::strerror(error), " (errno ", error, ")");
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EEXIST:
    case EADDRINUSE:
      return absl::AlreadyExistsError(message);
    case EACCES:
    case EPERM:
      return absl::PermissionDeniedError(message);
    case EINVAL:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(message);
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case ENOSPC:
      return absl::ResourceExhaustedError(message);
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN:
      return absl::UnavailableError(message);
    default:
      return absl::UnknownError(message);
  }
}

absl::Status CheckSocketPath(const std::string& path) {
  constexpr size_t kMax = sizeof(sockaddr_un{}.sun_path) - 1;
  if (path.empty()) return absl::InvalidArgumentError("socket path is empty");
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("socket path holds a NUL byte");
  }
  if (path.size() > kMax) {
    return absl::InvalidArgumentError(absl::StrCat("socket path \"", path, "\" has ", path.size(),
                                                   " bytes, Unix sockets allow ", kMax));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> ListenSeqpacket(const std::string& path, int backlog) {
  auto address = AddressOf(path);
  if (!address.ok()) return address.status();
  auto fd = SeqpacketSocket();
  if (!fd.ok()) return fd.status();
  // The mode must hold from the first instant: fchmod on the unbound socket is what bind applies.
  if (::fchmod(fd->get(), 0600) != 0) return ErrnoToStatus(errno, absl::StrCat("fchmod ", path));
  if (::bind(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("bind ", path));
  }
  if (::listen(fd->get(), backlog) != 0) return ErrnoToStatus(errno, absl::StrCat("listen ", path));
  return fd;
}

absl::StatusOr<UniqueFd> ConnectSeqpacket(const std::string& path) {
  auto address = AddressOf(path);
  if (!address.ok()) return address.status();
  auto fd = SeqpacketSocket();
  if (!fd.ok()) return fd.status();
  int result;
  do {
    result = ::connect(fd->get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address));
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int error = errno;
    if (error == ENOENT || error == ECONNREFUSED) {
      return absl::UnavailableError(
          absl::StrCat("nobody listens at ", path, ": ", std::strerror(error)));
    }
    return ErrnoToStatus(error, absl::StrCat("connect ", path));
  }
  return fd;
}

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SeqpacketPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return ErrnoToStatus(errno, "socketpair");
  }
  return std::make_pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

absl::StatusOr<PeerCredentials> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoToStatus(errno, "getsockopt(SO_PEERCRED)");
  }
  return PeerCredentials{credentials.pid, credentials.uid, credentials.gid};
}

absl::Status SetNonBlocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "fcntl(O_NONBLOCK)");
  }
  return absl::OkStatus();
}

}  // namespace muond
