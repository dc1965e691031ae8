#include "proto/carrier/loopback/loopback_carrier.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace muond {

// What one carrier receives. Reached by its own carrier and by the carriers connected to it, on any
// thread. No two mailboxes are ever locked at once.
class LoopbackMailbox {
 public:
  struct Link {
    std::weak_ptr<LoopbackMailbox> remote;
    PeerId remote_peer = kNoPeer;  // what the remote end calls this one
    size_t frames_queued = 0;
  };

  explicit LoopbackMailbox(int event) : event_(event) {}
  ~LoopbackMailbox() { ::close(event_); }
  int event() const { return event_; }

  PeerId AddLink(Link link, bool announce) {
    absl::MutexLock lock(&mutex_);
    if (!open_ || links_.size() >= kPeersMax) return kNoPeer;
    const PeerId id = next_peer_++;
    links_[id] = std::move(link);
    if (announce) {
      CarrierEvent event;
      event.kind = CarrierEventKind::kPeerUp;
      event.peer = id;
      event.credentials = {::getpid(), ::geteuid(), ::getegid()};
      Push(std::move(event));
    }
    return id;
  }

  void SetRemotePeer(PeerId id, PeerId remote_peer) {
    absl::MutexLock lock(&mutex_);
    if (const auto found = links_.find(id); found != links_.end())
      found->second.remote_peer = remote_peer;
  }

  bool Find(PeerId id, std::shared_ptr<LoopbackMailbox>* remote, PeerId* remote_peer) {
    absl::MutexLock lock(&mutex_);
    const auto found = links_.find(id);
    if (found == links_.end()) return false;
    *remote = found->second.remote.lock();
    *remote_peer = found->second.remote_peer;
    return true;
  }

  // The frame, as if `from` had sent it; true when an older one had to go.
  bool Deliver(PeerId from, const Frame& frame) {
    absl::MutexLock lock(&mutex_);
    const auto found = links_.find(from);
    if (!open_ || found == links_.end()) return false;
    bool dropped = false;
    if (found->second.frames_queued >= kFramesQueuedMax) {
      const auto oldest =
          std::find_if(events_.begin(), events_.end(), [from](const CarrierEvent& e) {
            return e.kind == CarrierEventKind::kFrame && e.peer == from;
          });
      events_.erase(oldest);
      --found->second.frames_queued;
      dropped = true;
    }
    ++found->second.frames_queued;
    CarrierEvent event;
    event.peer = from;
    event.frame = frame;
    Push(std::move(event));
    return dropped;
  }

  void DeliverGone(PeerId from) {
    absl::MutexLock lock(&mutex_);
    if (!open_ || !links_.contains(from)) return;
    CarrierEvent event;
    event.kind = CarrierEventKind::kPeerGone;
    event.peer = from;
    event.status = absl::UnavailableError("the peer closed its connection");
    Push(std::move(event));
  }

  void Take(std::vector<CarrierEvent>* out) {
    absl::MutexLock lock(&mutex_);
    uint64_t ignored;
    [[maybe_unused]] const ssize_t n = ::read(event_, &ignored, sizeof(ignored));
    for (CarrierEvent& event : events_) {
      if (event.kind == CarrierEventKind::kPeerGone) links_.erase(event.peer);
      if (event.kind == CarrierEventKind::kFrame) --links_[event.peer].frames_queued;
      out->push_back(std::move(event));
    }
    events_.clear();
  }

  void RemoveLink(PeerId id) {
    absl::MutexLock lock(&mutex_);
    links_.erase(id);
    std::erase_if(events_, [id](const CarrierEvent& e) { return e.peer == id; });
  }

  // Ends everything; the links that were, so that their remote ends can be told.
  std::map<PeerId, Link> Shut() {
    absl::MutexLock lock(&mutex_);
    open_ = false;
    events_.clear();
    return std::exchange(links_, {});
  }

 private:
  void Push(CarrierEvent event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    events_.push_back(std::move(event));
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(event_, &one, sizeof(one));
  }

  const int event_;
  absl::Mutex mutex_;
  bool open_ ABSL_GUARDED_BY(mutex_) = true;
  PeerId next_peer_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<PeerId, Link> links_ ABSL_GUARDED_BY(mutex_);
  std::deque<CarrierEvent> events_ ABSL_GUARDED_BY(mutex_);
};

struct LoopbackHub {
  std::weak_ptr<LoopbackMailbox> listener;
};

namespace {

class LoopbackCarrier : public Carrier {
 public:
  explicit LoopbackCarrier(std::shared_ptr<LoopbackMailbox> mailbox)
      : mailbox_(std::move(mailbox)) {}
  ~LoopbackCarrier() override {
    for (const auto& [peer, link] : mailbox_->Shut()) {
      if (const auto remote = link.remote.lock()) remote->DeliverGone(link.remote_peer);
    }
  }

  int event_descriptor() const override { return mailbox_->event(); }
  void Poll(std::vector<CarrierEvent>* events) override { mailbox_->Take(events); }
  uint64_t frames_dropped() const override { return frames_dropped_; }

  absl::Status Send(PeerId peer, const Frame& frame) override {
    std::shared_ptr<LoopbackMailbox> remote;
    PeerId remote_peer = kNoPeer;
    if (!mailbox_->Find(peer, &remote, &remote_peer)) {
      return absl::NotFoundError(absl::StrCat("peer ", peer, " is gone"));
    }
    if (remote != nullptr && remote->Deliver(remote_peer, frame)) ++frames_dropped_;
    return absl::OkStatus();
  }

  void Close(PeerId peer) override {
    std::shared_ptr<LoopbackMailbox> remote;
    PeerId remote_peer = kNoPeer;
    if (!mailbox_->Find(peer, &remote, &remote_peer)) return;
    mailbox_->RemoveLink(peer);
    if (remote != nullptr) remote->DeliverGone(remote_peer);
  }

 private:
  const std::shared_ptr<LoopbackMailbox> mailbox_;
  uint64_t frames_dropped_ = 0;
};

absl::StatusOr<std::shared_ptr<LoopbackMailbox>> CreateMailbox() {
  const int event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event < 0) return absl::ResourceExhaustedError(absl::StrCat("eventfd: errno ", errno));
  return std::make_shared<LoopbackMailbox>(event);
}

}  // namespace

absl::StatusOr<LoopbackListener> ListenLoopback() {
  auto mailbox = CreateMailbox();
  if (!mailbox.ok()) return mailbox.status();
  auto hub = std::make_shared<LoopbackHub>();
  hub->listener = *mailbox;
  return LoopbackListener{std::move(hub), std::make_unique<LoopbackCarrier>(*std::move(mailbox))};
}

absl::StatusOr<LoopbackConnection> ConnectLoopback(const std::shared_ptr<LoopbackHub>& hub) {
  const auto listener = hub->listener.lock();
  if (listener == nullptr) return absl::UnavailableError("nobody listens on this hub");
  auto mailbox = CreateMailbox();
  if (!mailbox.ok()) return mailbox.status();
  const PeerId here = (*mailbox)->AddLink({listener, kNoPeer, 0}, false);
  const PeerId there = listener->AddLink({*mailbox, here, 0}, true);
  if (there == kNoPeer) return absl::UnavailableError("nobody listens on this hub, or it is full");
  (*mailbox)->SetRemotePeer(here, there);
  return LoopbackConnection{std::make_unique<LoopbackCarrier>(*std::move(mailbox)), here};
}

}  // namespace muond
