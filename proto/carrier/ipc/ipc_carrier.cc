#include "proto/carrier/ipc/ipc_carrier.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {
namespace {

using FrameBytes = std::array<std::byte, kFrameBytes>;

constexpr int kEpollBatch = 64;
constexpr int kFramesPerPeerAndPoll =
    64;  // then the next peer has its turn; epoll is level-triggered
constexpr int kAcceptsPerPoll = 64;

struct Peer {
  UniqueFd socket;
  std::deque<FrameBytes> unsent;
  int bad_messages = 0;
};

class IpcCarrier : public Carrier {
 public:
  IpcCarrier(UniqueFd epoll, UniqueFd listening, UniqueFd reserve)
      : epoll_(std::move(epoll)), listening_(std::move(listening)), reserve_(std::move(reserve)) {}

  int event_descriptor() const override { return epoll_.get(); }
  uint64_t frames_dropped() const override { return frames_dropped_; }

  void Poll(std::vector<CarrierEvent>* events) override {
    std::array<epoll_event, kEpollBatch> ready;
    const int n = ::epoll_wait(epoll_.get(), ready.data(), kEpollBatch, 0);
    for (int i = 0; i < n; ++i) {
      const PeerId id = ready[i].data.u64;
      if (id == kNoPeer) {
        Accept(events);
        continue;
      }
      const auto found = peers_.find(id);
      if (found == peers_.end()) continue;
      if (ready[i].events & EPOLLOUT) Flush(id, &found->second);
      if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
        Read(id, &found->second, events);  // may erase the peer
      }
    }
  }

  absl::Status Send(PeerId peer, const Frame& frame) override {
    const auto found = peers_.find(peer);
    if (found == peers_.end()) return absl::NotFoundError(absl::StrCat("peer ", peer, " is gone"));
    Peer& p = found->second;
    const FrameBytes bytes = Encode(frame);
    if (p.unsent.empty()) {
      const Sent sent = SendNow(p.socket.get(), bytes);
      // A broken connection is told by Poll, after what the peer had still sent.
      if (sent != Sent::kNoRoom) return absl::OkStatus();
      Watch(peer, p, EPOLLIN | EPOLLRDHUP | EPOLLOUT);
    }
    if (p.unsent.size() >= kFramesQueuedMax) {
      p.unsent.pop_front();
      ++frames_dropped_;
    }
    p.unsent.push_back(bytes);
    return absl::OkStatus();
  }

  void Close(PeerId peer) override {
    const auto found = peers_.find(peer);
    if (found == peers_.end()) return;
    for (const FrameBytes& bytes : found->second.unsent) {
      if (SendNow(found->second.socket.get(), bytes) != Sent::kDone) break;
    }
    peers_.erase(found);
  }

  absl::StatusOr<PeerId> Add(UniqueFd socket) {
    if (auto status = SetNonBlocking(socket.get()); !status.ok()) return status;
    const PeerId id = next_peer_;
    epoll_event event{};
    event.events = EPOLLIN | EPOLLRDHUP;
    event.data.u64 = id;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket.get(), &event) != 0) {
      return ErrnoToStatus(errno, "epoll_ctl(ADD)");
    }
    ++next_peer_;
    peers_[id].socket = std::move(socket);
    return id;
  }

 private:
  enum class Sent { kDone, kNoRoom, kBroken };
  static Sent SendNow(int socket, const FrameBytes& bytes) {
    for (;;) {
      if (::send(socket, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return Sent::kDone;
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? Sent::kNoRoom
                                                                         : Sent::kBroken;
    }
  }

  void Watch(PeerId id, const Peer& peer, uint32_t what) {
    epoll_event event{};
    event.events = what;
    event.data.u64 = id;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, peer.socket.get(), &event);
  }

  void Flush(PeerId id, Peer* peer) {
    while (!peer->unsent.empty()) {
      const Sent sent = SendNow(peer->socket.get(), peer->unsent.front());
      if (sent == Sent::kNoRoom) return;
      if (sent == Sent::kBroken)
        peer->unsent.clear();
      else
        peer->unsent.pop_front();
    }
    Watch(id, *peer, EPOLLIN | EPOLLRDHUP);
  }

  void Accept(std::vector<CarrierEvent>* events) {
    for (int i = 0; i < kAcceptsPerPoll; ++i) {
      UniqueFd socket(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!socket.valid()) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EMFILE || errno == ENFILE) TurnAway();
        return;
      }
      const auto credentials = PeerOf(socket.get());
      const bool trusted =
          credentials.ok() && (credentials->uid == ::geteuid() || credentials->uid == 0);
      if (!trusted || peers_.size() >= kPeersMax) continue;  // closes it
      const auto id = Add(std::move(socket));
      if (!id.ok()) continue;
      CarrierEvent event;
      event.kind = CarrierEventKind::kPeerUp;
      event.peer = *id;
      event.credentials = *credentials;
      events->push_back(std::move(event));
    }
  }

  // No descriptor left: without this the waiting connection would keep the socket readable for
  // ever.
  void TurnAway() {
    reserve_.Reset();
    { const UniqueFd turned_away(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }
    reserve_.Reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  }

  void Gone(PeerId id, absl::Status why, std::vector<CarrierEvent>* events) {
    peers_.erase(id);
    CarrierEvent event;
    event.kind = CarrierEventKind::kPeerGone;
    event.peer = id;
    event.status = std::move(why);
    events->push_back(std::move(event));
  }

  void Read(PeerId id, Peer* peer, std::vector<CarrierEvent>* events) {
    // One byte more than a frame, so that an oversized message is seen as such.
    std::array<std::byte, kFrameBytes + 1> bytes;
    for (int i = 0; i < kFramesPerPeerAndPoll; ++i) {
      const ssize_t n =
          ::recv(peer->socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC);
      if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        // ECONNRESET comes once, before what the peer had sent: read on until the end.
        if (errno == EINTR || errno == ECONNRESET) continue;
        return Gone(id, ErrnoToStatus(errno, "receive frame"), events);
      }
      if (n == 0 && Hungup(peer->socket.get())) {
        return Gone(id, absl::UnavailableError("the peer closed its connection"), events);
      }
      const absl::StatusOr<Frame> frame =
          static_cast<size_t>(n) == kFrameBytes
              ? Decode(std::span<const std::byte>(bytes.data(), kFrameBytes))
              : absl::StatusOr<Frame>(absl::InvalidArgumentError(
                    absl::StrCat("a frame has ", kFrameBytes, " bytes, this message has ", n)));
      CarrierEvent event;
      event.peer = id;
      if (frame.ok()) {
        event.kind = CarrierEventKind::kFrame;
        event.frame = *frame;
        events->push_back(std::move(event));
        continue;
      }
      event.kind = CarrierEventKind::kBadMessage;
      event.status = frame.status();
      events->push_back(std::move(event));
      if (++peer->bad_messages >= kBadMessagesMax) {
        return Gone(id,
                    absl::InvalidArgumentError(
                        absl::StrCat(kBadMessagesMax, " bad messages from one peer")),
                    events);
      }
    }
  }

  // Tells an empty message from the end of the connection.
  static bool Hungup(int socket) {
    pollfd entry{socket, POLLRDHUP, 0};
    return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLRDHUP | POLLHUP | POLLERR));
  }

  UniqueFd epoll_;
  UniqueFd listening_;
  UniqueFd reserve_;
  std::unordered_map<PeerId, Peer> peers_;
  PeerId next_peer_ = 1;
  uint64_t frames_dropped_ = 0;
};

absl::StatusOr<UniqueFd> CreateEpoll() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return ErrnoToStatus(errno, "epoll_create1");
  return epoll;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Carrier>> ListenIpc(UniqueFd listening_socket) {
  auto epoll = CreateEpoll();
  if (!epoll.ok()) return epoll.status();
  if (auto status = SetNonBlocking(listening_socket.get()); !status.ok()) return status;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kNoPeer;
  if (::epoll_ctl(epoll->get(), EPOLL_CTL_ADD, listening_socket.get(), &event) != 0) {
    return ErrnoToStatus(errno, "epoll_ctl(ADD) of the listening socket");
  }
  UniqueFd reserve(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!reserve.valid()) return ErrnoToStatus(errno, "open /dev/null");
  return std::make_unique<IpcCarrier>(*std::move(epoll), std::move(listening_socket),
                                      std::move(reserve));
}

absl::StatusOr<ConnectedCarrier> ConnectIpc(const std::string& path) {
  auto socket = ConnectSeqpacket(path);
  if (!socket.ok()) return socket.status();
  auto epoll = CreateEpoll();
  if (!epoll.ok()) return epoll.status();
  auto carrier = std::make_unique<IpcCarrier>(*std::move(epoll), UniqueFd(), UniqueFd());
  auto peer = carrier->Add(*std::move(socket));
  if (!peer.ok()) return peer.status();
  return ConnectedCarrier{std::move(carrier), *peer};
}

}  // namespace muond
