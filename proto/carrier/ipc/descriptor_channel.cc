#include "proto/carrier/ipc/descriptor_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

// Room for more descriptors than allowed, so that a peer that sends too many is seen, and all of
// them are closed.
constexpr size_t kDescriptorsSeen = 4;
constexpr int kRetryMs = 5;  // ETOOMANYREFS: descriptors in flight beyond the limit; no event tells
                             // when they have landed

absl::Status WaitFor(int socket, short events, int timeout_ms) {
  const absl::Time deadline = absl::Now() + absl::Milliseconds(timeout_ms);
  for (;;) {
    int wait_ms = -1;
    if (timeout_ms >= 0) {
      wait_ms = static_cast<int>(
          absl::ToInt64Milliseconds(absl::Ceil(deadline - absl::Now(), absl::Milliseconds(1))));
      if (wait_ms < 0) wait_ms = 0;
    }
    pollfd entry{socket, events, 0};
    const int n = ::poll(&entry, 1, wait_ms);
    if (n > 0) return absl::OkStatus();
    if (n < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
    if (timeout_ms >= 0 && absl::Now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("no keeper message within ", timeout_ms, " ms"));
    }
  }
}

}  // namespace

absl::StatusOr<bool> DescriptorChannel::TrySend(const KeeperMessage& message, int descriptor) {
  iovec part{const_cast<KeeperMessage*>(&message), sizeof(message)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* attached = CMSG_FIRSTHDR(&header);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(attached), &descriptor, sizeof(int));
  }
  for (;;) {
    const ssize_t n = ::sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n == static_cast<ssize_t>(sizeof(message))) return true;
    if (n >= 0)
      return absl::InternalError(
          absl::StrCat("seqpacket sent ", n, " of ", sizeof(message), " bytes"));
    if (errno == EINTR) continue;
    if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ETOOMANYREFS || errno == ENOBUFS)
      return false;
    return ErrnoToStatus(errno, "send keeper message");
  }
}

absl::StatusOr<std::optional<DescriptorMessage>> DescriptorChannel::TryReceive() {
  // One byte more than a message, so that an oversized one is seen as such.
  char bytes[sizeof(KeeperMessage) + 1];
  iovec part{bytes, sizeof(bytes)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kDescriptorsSeen)];
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof(control);
  ssize_t n;
  do {
    n = ::recvmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return std::optional<DescriptorMessage>();
    return ErrnoToStatus(errno, "receive keeper message");
  }
  std::vector<UniqueFd> descriptors;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      descriptors.emplace_back(fd);
    }
  }
  // A zero-length seqpacket message cannot be told from the end; no side of ours sends one.
  if (n == 0) return absl::UnavailableError("the keeper connection's other end closed");
  auto message =
      DecodeKeeperMessage(std::as_bytes(std::span<const char>(bytes, static_cast<size_t>(n))));
  if (!message.ok()) return message.status();
  const size_t expected = CarriesDescriptor(message->verb) ? 1 : 0;
  if ((header.msg_flags & MSG_CTRUNC) || descriptors.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        "keeper message ", std::string(NameOf(message->verb)), " came with ", descriptors.size(),
        " descriptors, expected ", expected,
        (header.msg_flags & MSG_CTRUNC) ? " (cut short: too many, or this process may open no more)"
                                        : ""));
  }
  DescriptorMessage result;
  result.message = *message;
  if (!descriptors.empty()) result.descriptor = std::move(descriptors[0]);
  return std::optional<DescriptorMessage>(std::move(result));
}

absl::Status DescriptorChannel::Send(const KeeperMessage& message, int descriptor) {
  for (;;) {
    auto sent = TrySend(message, descriptor);
    if (!sent.ok()) return sent.status();
    if (*sent) return absl::OkStatus();
    pollfd entry{socket_.get(), POLLOUT, 0};
    const int n = ::poll(&entry, 1, kRetryMs);
    if (n < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
    if (n > 0 && !(entry.revents & (POLLERR | POLLHUP))) {
      ::poll(nullptr, 0, 1);  // room for bytes, but descriptors are still in flight
    }
  }
}

absl::StatusOr<DescriptorMessage> DescriptorChannel::Receive(int timeout_ms) {
  for (;;) {
    if (auto status = WaitFor(socket_.get(), POLLIN, timeout_ms); !status.ok()) return status;
    auto received = TryReceive();
    if (!received.ok()) return received.status();
    if (received->has_value()) return std::move(**received);
  }
}

}  // namespace muond
