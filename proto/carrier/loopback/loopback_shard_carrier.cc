#include "proto/carrier/loopback/loopback_shard_carrier.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/synchronization/mutex.h"
#include "proto/carrier/admissions.h"
#include "proto/carrier/put_window.h"

namespace muond {
namespace {

using EndId = uint64_t;

// abseil's own string_view where it is not std's.
absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

constexpr absl::string_view kAddressPrefix = "loopback:";
constexpr absl::string_view kKeyPrefix = "loopback-region";

struct Link {
  EndId remote_end = 0;
  PeerId remote_peer = kNoPeer;  // what the other end calls us; kNoPeer until it has let us in
  PutWindow puts;
  size_t frames_queued = 0;  // in our own events
};
struct LocalRegion {
  std::byte* base = nullptr;
  uint64_t size_bytes = 0;
};
struct RemoteRegion {
  PeerId peer = kNoPeer;
  RegionId region = 0;
  uint64_t size_bytes = 0;
};
struct End {
  int event_fd = -1;
  ShardLimits limits;
  std::deque<CarrierEvent> events;
  std::map<PeerId, Link> links;
  std::map<RegionId, LocalRegion> regions;
  std::map<RemoteRegionId, RemoteRegion> remote_regions;
  Admissions admissions;
  uint64_t frames_dropped = 0;
  uint64_t next_id = 1;  // of peers and regions
  bool cut = false;
  int64_t cut_since_ns = 0;
};
// What is between two ends.
struct Flight {
  enum class Kind { kHello, kFrame, kPut, kGoodbye } kind = Kind::kFrame;
  int64_t due_ns = 0;
  EndId from = 0;
  PeerId from_peer = kNoPeer;  // what `from` calls `to`
  EndId to = 0;
  AdmissionKey key{};   // kHello
  Frame frame;          // kFrame
  PutRequest put;       // kPut
  RegionId region = 0;  // kPut: at `to`
};

class Net : public LoopbackNet {
 public:
  explicit Net(const LoopbackNetOptions& options) : options_(options), random_(options.seed) {}

  void AdvanceTo(int64_t now_ns) override {
    absl::MutexLock lock(&mutex_);
    now_ns_ = std::max(now_ns_, now_ns);
    for (auto& [id, end] : ends_) {
      if (end.cut && now_ns_ - end.cut_since_ns >= options_.silence_ns_max) Silence(id);
    }
    Pump();
  }
  void Cut(std::string_view address) override {
    absl::MutexLock lock(&mutex_);
    const auto end = ends_.find(IdOf(address));
    if (end == ends_.end() || end->second.cut) return;
    end->second.cut = true;
    end->second.cut_since_ns = now_ns_;
  }
  void Heal(std::string_view address) override {
    absl::MutexLock lock(&mutex_);
    const auto end = ends_.find(IdOf(address));
    if (end == ends_.end()) return;
    end->second.cut = false;
    Pump();
  }

  // At `address`, or at a new one; 0 when somebody is there.
  EndId AddEnd(int event_fd, const ShardLimits& limits, std::string_view address) {
    absl::MutexLock lock(&mutex_);
    const EndId id = address.empty() ? next_end_++ : IdOf(address);
    if (ends_.contains(id)) return 0;
    ends_[id].event_fd = event_fd;
    ends_[id].limits = limits;
    return id;
  }
  void RemoveEnd(EndId id) {
    absl::MutexLock lock(&mutex_);
    // Its memory is no longer touched: puts under way are lost, frames are not.
    std::erase_if(flights_,
                  [id](const Flight& f) { return f.from == id && f.kind == Flight::Kind::kPut; });
    for (const auto& [peer, link] : ends_[id].links)
      Launch({Flight::Kind::kGoodbye, 0, id, peer, link.remote_end, {}, {}, {}, 0});
    ends_.erase(id);
    Pump();
  }

  absl::Status Admit(EndId id, const AdmissionKey& key, uint64_t tag) {
    absl::MutexLock lock(&mutex_);
    return ends_[id].admissions.Add(key, tag);
  }
  void Withdraw(EndId id, const AdmissionKey& key) {
    absl::MutexLock lock(&mutex_);
    ends_[id].admissions.Withdraw(key);
  }

  absl::StatusOr<PeerId> Connect(EndId id, std::string_view address, const AdmissionKey& key) {
    absl::MutexLock lock(&mutex_);
    const EndId to = IdOf(address);
    if (to == 0)
      return absl::InvalidArgumentError(absl::StrCat("'", View(address), "' is no address"));
    End& end = ends_[id];
    const PeerId peer = end.next_id++;
    end.links.emplace(peer, Link{to, kNoPeer, PutWindow(end.limits), 0});
    Launch({Flight::Kind::kHello, 0, id, peer, to, key, {}, {}, 0});
    Pump();
    return peer;
  }

  absl::Status Send(EndId id, PeerId peer, const Frame& frame) {
    absl::MutexLock lock(&mutex_);
    const auto link = ends_[id].links.find(peer);
    if (link == ends_[id].links.end()) return NoPeer(peer);
    if (options_.frame_loss > 0 && std::bernoulli_distribution(options_.frame_loss)(random_))
      return absl::OkStatus();
    Launch({Flight::Kind::kFrame, 0, id, peer, link->second.remote_end, {}, frame, {}, 0});
    Pump();
    return absl::OkStatus();
  }

  void Close(EndId id, PeerId peer) {
    absl::MutexLock lock(&mutex_);
    End& end = ends_[id];
    const auto link = end.links.find(peer);
    if (link == end.links.end()) return;
    const EndId remote = link->second.remote_end;
    EndAllPuts(id, peer, absl::CancelledError(absl::StrCat("peer ", peer, " was closed")));
    std::erase_if(end.events, [peer](const CarrierEvent& e) {
      return e.peer == peer && e.kind != CarrierEventKind::kPutDone;
    });
    Forget(end, peer);
    Launch({Flight::Kind::kGoodbye, 0, id, peer, remote, {}, {}, {}, 0});
    Pump();
  }

  absl::StatusOr<Region> Register(EndId id, void* base, uint64_t size_bytes) {
    absl::MutexLock lock(&mutex_);
    End& end = ends_[id];
    if (base == nullptr || size_bytes == 0 ||
        reinterpret_cast<uintptr_t>(base) > UINTPTR_MAX - size_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("no memory: ", size_bytes, " bytes at ", reinterpret_cast<uintptr_t>(base)));
    }
    if (end.regions.size() >= kRegionsMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(end.regions.size(), " regions are registered, the most is ", kRegionsMax));
    }
    const RegionId region = end.next_id++;
    end.regions[region] = {static_cast<std::byte*>(base), size_bytes};
    return Region{region, absl::StrCat(kKeyPrefix, "/", id, "/", region, "/", size_bytes)};
  }
  absl::Status Unregister(EndId id, RegionId region) {
    absl::MutexLock lock(&mutex_);
    if (ends_[id].regions.erase(region) > 0) return absl::OkStatus();
    return absl::NotFoundError(absl::StrCat("region ", region, " is not registered"));
  }

  absl::StatusOr<RemoteRegionId> ImportRegion(EndId id, PeerId peer, std::string_view key) {
    absl::MutexLock lock(&mutex_);
    End& end = ends_[id];
    const auto link = end.links.find(peer);
    if (link == end.links.end()) return NoPeer(peer);
    const std::vector<absl::string_view> parts = absl::StrSplit(View(key), '/');
    EndId owner = 0;
    RemoteRegion region{peer, 0, 0};
    if (key.size() > kRegionKeyBytesMax || parts.size() != 4 || parts[0] != kKeyPrefix ||
        !absl::SimpleAtoi(parts[1], &owner) || !absl::SimpleAtoi(parts[2], &region.region) ||
        !absl::SimpleAtoi(parts[3], &region.size_bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("these ", key.size(), " bytes are no region key"));
    }
    if (owner != link->second.remote_end) {
      return absl::InvalidArgumentError(absl::StrCat("the region belongs to carrier ", owner,
                                                     ", the peer is ", link->second.remote_end));
    }
    if (end.remote_regions.size() >= kRemoteRegionsMax) {
      return absl::ResourceExhaustedError(absl::StrCat(
          end.remote_regions.size(), " regions of peers, the most is ", kRemoteRegionsMax));
    }
    const RemoteRegionId remote = end.next_id++;
    end.remote_regions[remote] = region;
    return remote;
  }
  void ReleaseRegion(EndId id, RemoteRegionId region) {
    absl::MutexLock lock(&mutex_);
    ends_[id].remote_regions.erase(region);
  }

  absl::Status Put(EndId id, const PutRequest& put) {
    absl::MutexLock lock(&mutex_);
    End& end = ends_[id];
    const auto link = end.links.find(put.peer);
    if (link == end.links.end()) return NoPeer(put.peer);
    const auto region = end.remote_regions.find(put.region);
    if (region == end.remote_regions.end())
      return absl::NotFoundError(absl::StrCat("region ", put.region, " is not imported"));
    if (region->second.peer != put.peer) {
      return absl::InvalidArgumentError(absl::StrCat("region ", put.region, " is of peer ",
                                                     region->second.peer, ", not ", put.peer));
    }
    if (auto status = CheckPut(put, region->second.size_bytes); !status.ok()) return status;
    PutRequest queued = put;
    queued.region = region->second.region;  // as the other end calls it
    if (auto status = link->second.puts.Add(queued); !status.ok()) return status;
    LaunchPuts(id, put.peer);
    Pump();
    return absl::OkStatus();
  }
  size_t puts_pending(EndId id) {
    absl::MutexLock lock(&mutex_);
    size_t pending = 0;
    for (const auto& [peer, link] : ends_[id].links)
      pending += link.puts.waiting() + link.puts.in_flight();
    return pending;
  }

  void Take(EndId id, std::vector<CarrierEvent>* out) {
    absl::MutexLock lock(&mutex_);
    End& end = ends_[id];
    uint64_t ignored;
    [[maybe_unused]] const ssize_t n = ::read(end.event_fd, &ignored, sizeof(ignored));
    for (CarrierEvent& event : end.events) {
      const auto link = end.links.find(event.peer);
      if (event.kind == CarrierEventKind::kFrame && link != end.links.end())
        --link->second.frames_queued;
      out->push_back(std::move(event));
    }
    end.events.clear();
  }
  uint64_t frames_dropped(EndId id) {
    absl::MutexLock lock(&mutex_);
    return ends_[id].frames_dropped;
  }

 private:
  static absl::Status NoPeer(PeerId peer) {
    return absl::NotFoundError(absl::StrCat("peer ", peer, " is gone"));
  }
  static EndId IdOf(std::string_view address) {
    absl::string_view rest = View(address);
    EndId id = 0;
    return absl::ConsumePrefix(&rest, kAddressPrefix) && absl::SimpleAtoi(rest, &id) ? id : 0;
  }
  static void Push(End& end, CarrierEvent event) {
    end.events.push_back(std::move(event));
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(end.event_fd, &one, sizeof(one));
  }
  static void PushPutDone(End& end, const PutRequest& put, absl::Status status) {
    CarrierEvent event;
    event.kind = CarrierEventKind::kPutDone;
    event.peer = put.peer;
    event.token = put.token;
    event.status = std::move(status);
    Push(end, std::move(event));
  }
  static void Forget(End& end, PeerId peer) {
    end.links.erase(peer);
    std::erase_if(end.remote_regions, [peer](const auto& r) { return r.second.peer == peer; });
  }

  void Launch(Flight flight) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    flight.due_ns = now_ns_ + options_.delay_ns;
    flights_.push_back(std::move(flight));
  }
  void LaunchPuts(EndId id, PeerId peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Link& link = ends_[id].links.at(peer);
    while (const auto put = link.puts.Next())
      Launch({Flight::Kind::kPut, 0, id, peer, link.remote_end, {}, {}, *put, put->region});
  }
  bool IsCut(EndId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto end = ends_.find(id);
    return end != ends_.end() && end->second.cut;
  }

  // Lands what is due, in the order in which it was sent; landing may send more.
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    for (size_t i = 0; i < flights_.size();) {
      if (flights_[i].due_ns > now_ns_ || IsCut(flights_[i].from) || IsCut(flights_[i].to)) {
        ++i;
        continue;
      }
      const Flight flight = std::move(flights_[i]);
      flights_.erase(flights_.begin() + static_cast<ptrdiff_t>(i));
      Land(flight);
      i = 0;  // landing may have ended others
    }
  }

  // What `to` calls the sender; kNoPeer when it has no such connection.
  PeerId PeerAt(const Flight& flight) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto to = ends_.find(flight.to);
    if (to == ends_.end()) return kNoPeer;
    for (const auto& [peer, link] : to->second.links) {
      if (link.remote_end == flight.from && link.remote_peer == flight.from_peer) return peer;
    }
    return kNoPeer;
  }

  void Land(const Flight& flight) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (flight.kind == Flight::Kind::kHello) return LandHello(flight);
    const PeerId peer = PeerAt(flight);
    if (flight.kind == Flight::Kind::kPut) return LandPut(flight, peer);
    if (peer == kNoPeer) return;
    if (flight.kind == Flight::Kind::kFrame) return LandFrame(flight, peer);
    Gone(flight.to, peer, absl::UnavailableError("the peer closed its connection"));
  }

  void LandHello(const Flight& hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto from = ends_.find(hello.from);
    if (from == ends_.end() || !from->second.links.contains(hello.from_peer)) return;
    const auto to = ends_.find(hello.to);
    std::optional<uint64_t> tag;
    if (to != ends_.end() && to->second.links.size() < kPeersMax)
      tag = to->second.admissions.Take(hello.key);
    if (!tag.has_value())
      return Gone(hello.from, hello.from_peer, absl::UnavailableError("nobody let us in"));
    const PeerId peer = to->second.next_id++;
    to->second.links.emplace(peer,
                             Link{hello.from, hello.from_peer, PutWindow(to->second.limits), 0});
    from->second.links.at(hello.from_peer).remote_peer = peer;
    CarrierEvent event;
    event.kind = CarrierEventKind::kPeerUp;
    event.peer = peer;
    event.token = *tag;
    Push(to->second, std::move(event));
  }

  void LandFrame(const Flight& flight, PeerId peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    End& to = ends_[flight.to];
    Link& link = to.links.at(peer);
    if (link.frames_queued >= kFramesQueuedMax) {
      to.events.erase(
          std::find_if(to.events.begin(), to.events.end(), [peer](const CarrierEvent& e) {
            return e.kind == CarrierEventKind::kFrame && e.peer == peer;
          }));
      --link.frames_queued;
      if (const auto from = ends_.find(flight.from); from != ends_.end())
        ++from->second.frames_dropped;
    }
    ++link.frames_queued;
    CarrierEvent event;
    event.peer = peer;
    event.frame = flight.frame;
    Push(to, std::move(event));
  }

  void LandPut(const Flight& flight, PeerId peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    absl::Status status = absl::UnavailableError("the peer is gone");
    if (peer != kNoPeer) {
      const auto region = ends_[flight.to].regions.find(flight.region);
      if (region == ends_[flight.to].regions.end()) {
        status = absl::FailedPreconditionError(
            absl::StrCat("region ", flight.region, " is no longer registered"));
      } else {
        std::memcpy(region->second.base + flight.put.offset, flight.put.data,
                    flight.put.size_bytes);
        status = absl::OkStatus();
      }
    }
    ends_[flight.from].links.at(flight.from_peer).puts.Ended(flight.put.size_bytes);
    PushPutDone(ends_[flight.from], flight.put, std::move(status));
    LaunchPuts(flight.from, flight.from_peer);
  }

  void EndAllPuts(EndId id, PeerId peer, const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    End& end = ends_[id];
    std::erase_if(flights_, [&](const Flight& f) {
      if (f.kind != Flight::Kind::kPut || f.from != id || f.from_peer != peer) return false;
      PushPutDone(end, f.put, why);
      return true;
    });
    Link& link = end.links.at(peer);
    while (const auto put = link.puts.TakeWaiting()) PushPutDone(end, *put, why);
  }

  void Gone(EndId id, PeerId peer, absl::Status why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    EndAllPuts(id, peer, why);
    Forget(ends_[id], peer);
    CarrierEvent event;
    event.kind = CarrierEventKind::kPeerGone;
    event.peer = peer;
    event.status = std::move(why);
    Push(ends_[id], std::move(event));
  }

  // Nobody has heard of this end for too long.
  void Silence(EndId cut) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Status why = absl::UnavailableError(
        absl::StrCat("silent for ", now_ns_ - ends_[cut].cut_since_ns, " ns"));
    for (auto& [id, end] : ends_) {
      std::vector<PeerId> gone;
      for (const auto& [peer, link] : end.links) {
        if (id == cut || link.remote_end == cut) gone.push_back(peer);
      }
      for (const PeerId peer : gone) Gone(id, peer, why);
    }
    std::erase_if(flights_, [cut](const Flight& f) { return f.from == cut || f.to == cut; });
  }

  const LoopbackNetOptions options_;
  absl::Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  int64_t now_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  EndId next_end_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<EndId, End> ends_ ABSL_GUARDED_BY(mutex_);
  std::deque<Flight> flights_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackShardCarrier : public ShardCarrier {
 public:
  LoopbackShardCarrier(std::shared_ptr<Net> net, int event_fd, EndId end)
      : net_(std::move(net)), event_fd_(event_fd), end_(end) {}
  ~LoopbackShardCarrier() override {
    net_->RemoveEnd(end_);
    ::close(event_fd_);
  }

  int event_descriptor() const override { return event_fd_; }
  void Poll(std::vector<CarrierEvent>* events) override { net_->Take(end_, events); }
  absl::Status Send(PeerId peer, const Frame& frame) override {
    return net_->Send(end_, peer, frame);
  }
  void Close(PeerId peer) override { net_->Close(end_, peer); }
  uint64_t frames_dropped() const override { return net_->frames_dropped(end_); }

  std::string address() const override { return absl::StrCat(kAddressPrefix, end_); }
  std::string path() const override { return "loopback, host memory"; }
  absl::Status Admit(const AdmissionKey& key, uint64_t tag) override {
    return net_->Admit(end_, key, tag);
  }
  void Withdraw(const AdmissionKey& key) override { net_->Withdraw(end_, key); }
  absl::StatusOr<PeerId> Connect(std::string_view address, const AdmissionKey& key) override {
    return net_->Connect(end_, address, key);
  }
  // Nothing is between two ends here once one of them is closed.
  void Sever(PeerId peer) override { net_->Close(end_, peer); }
  absl::StatusOr<Region> Register(void* base, uint64_t size_bytes) override {
    return net_->Register(end_, base, size_bytes);
  }
  absl::Status Unregister(RegionId region) override { return net_->Unregister(end_, region); }
  absl::StatusOr<RemoteRegionId> ImportRegion(PeerId peer, std::string_view key) override {
    return net_->ImportRegion(end_, peer, key);
  }
  void ReleaseRegion(RemoteRegionId region) override { net_->ReleaseRegion(end_, region); }
  absl::Status Put(const PutRequest& put) override { return net_->Put(end_, put); }
  size_t puts_pending() const override { return net_->puts_pending(end_); }

 private:
  const std::shared_ptr<Net> net_;
  const int event_fd_;
  const EndId end_;
};

}  // namespace

std::shared_ptr<LoopbackNet> LoopbackNet::Create(const LoopbackNetOptions& options) {
  return std::make_shared<Net>(options);
}

absl::StatusOr<std::unique_ptr<ShardCarrier>> CreateLoopbackShards(std::shared_ptr<LoopbackNet> net,
                                                                   const ShardLimits& limits,
                                                                   std::string_view address) {
  const int event_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_fd < 0) return absl::ResourceExhaustedError(absl::StrCat("eventfd: errno ", errno));
  auto its_net = std::static_pointer_cast<Net>(std::move(net));
  const EndId end = its_net->AddEnd(event_fd, limits, address);
  if (end == 0) {
    ::close(event_fd);
    return absl::AlreadyExistsError(absl::StrCat("an end is at '", View(address), "'"));
  }
  return std::make_unique<LoopbackShardCarrier>(std::move(its_net), event_fd, end);
}

}  // namespace muond
