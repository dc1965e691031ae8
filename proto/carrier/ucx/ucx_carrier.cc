#include "proto/carrier/ucx/ucx_carrier.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ucx/socket_address.h"
#include "proto/carrier/ucx/ucx_carrier_impl.h"

namespace muond {
namespace {

using State = UcxPeer::State;

constexpr size_t kEventsPerPoll = 256;
constexpr int kProgressPerPoll = 256;  // calls into UCX; then the owner has its turn
constexpr size_t kStrangersMax =
    64;  // connections that have not shown a key yet; more are turned away
constexpr int kQuietCallsAfterClose = 8;  // UCX destroys sockets in later calls of its progress

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

uint64_t RandomId() {
  std::random_device random;
  uint64_t id = 0;
  while (id == 0) id = (uint64_t{random()} << 32) | random();
  return id;
}

absl::Status Errno(const char* what) {
  return absl::InternalError(absl::StrCat(what, ": errno ", errno));
}

absl::Status NoPeer(PeerId peer) {
  return absl::NotFoundError(absl::StrCat("peer ", peer, " is gone"));
}

}  // namespace

absl::Status UcxCarrier::Start() {
  epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
  wake_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  timer_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (epoll_ < 0 || wake_ < 0 || timer_ < 0) return Errno("descriptors of the UCX carrier");
  for (const int descriptor : {wake_, timer_, ucx_->event_descriptor()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0) return Errno("epoll_ctl(ADD)");
  }
  for (const auto& [id, callback] :
       {std::pair{kFrameMessage, &OnFrameMessage}, std::pair{kControlMessage, &OnControlMessage},
        std::pair{kPieceMessage, &OnPieceMessage}}) {
    ucp_am_handler_param_t handler{};
    handler.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS |
                         UCP_AM_HANDLER_PARAM_FIELD_CB | UCP_AM_HANDLER_PARAM_FIELD_ARG;
    handler.id = id;
    handler.flags = UCP_AM_FLAG_WHOLE_MSG;
    handler.cb = callback;
    handler.arg = this;
    if (auto status = ucp_worker_set_am_recv_handler(ucx_->worker(), &handler); status != UCS_OK)
      return FromUcs(status, "set an active message handler");
  }
  now_ns_ = polled_ns_ = NowNs();
  if (options_.listen.empty()) return absl::OkStatus();
  auto bound = ParseSocketAddress(options_.listen, true);
  if (!bound.ok()) return bound.status();
  ucp_listener_params_t params{};
  params.field_mask = UCP_LISTENER_PARAM_FIELD_SOCK_ADDR | UCP_LISTENER_PARAM_FIELD_CONN_HANDLER;
  params.sockaddr.addr = bound->get();
  params.sockaddr.addrlen = bound->length;
  params.conn_handler.cb = &OnConnection;
  params.conn_handler.arg = this;
  if (auto status = ucp_listener_create(ucx_->worker(), &params, &listener_); status != UCS_OK) {
    return absl::UnavailableError(
        absl::StrCat("listen on ", options_.listen, ": ", ucs_status_string(status)));
  }
  ucp_listener_attr_t attr{};
  attr.field_mask = UCP_LISTENER_ATTR_FIELD_SOCKADDR;
  if (auto status = ucp_listener_query(listener_, &attr); status != UCS_OK)
    return FromUcs(status, "ask where the listener listens");
  address_ = TextOf(attr.sockaddr);
  Wake();
  return absl::OkStatus();
}

UcxCarrier::~UcxCarrier() {
  std::vector<PeerId> known;
  for (const auto& [id, peer] : peers_) known.push_back(id);
  for (const PeerId id : known) Close(id);
  // Close lets the last frames arrive; then whatever is left ends hard.
  std::vector<CarrierEvent> ignored;
  const int64_t polite_until_ns = NowNs() + options_.leave_ns_max;
  auto leaving = [this] {
    return std::any_of(all_.begin(), all_.end(),
                       [](const auto& entry) { return entry.first->state == State::kLeaving; });
  };
  while (leaving() && NowNs() < polite_until_ns) {
    Poll(&ignored);
    ::usleep(50);
  }
  for (const auto& [peer, held] : all_) End(peer, absl::CancelledError("the carrier ended"), false);
  const int64_t hard_until_ns = NowNs() + options_.leave_ns_max;
  for (int quiet = 0; (quiet < kQuietCallsAfterClose || !all_.empty()) && NowNs() < hard_until_ns;
       ++quiet) {
    ucp_worker_progress(ucx_->worker());
    AttendAll();
  }
  for (const ucp_conn_request_h request : connections_) ucp_listener_reject(listener_, request);
  if (listener_ != nullptr) ucp_listener_destroy(listener_);
  // UCX would report to what is left: better never freed than used after.
  for (auto& [peer, held] : all_) (void)held.release();
  for (const int descriptor : {epoll_, wake_, timer_}) {
    if (descriptor >= 0) ::close(descriptor);
  }
}

// Within Poll nothing has to wake its caller.
void UcxCarrier::Wake() {
  if (polling_ || std::exchange(awake_, true)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_, &one, sizeof(one));
}

void UcxCarrier::Look(UcxPeer* peer) {
  if (std::exchange(peer->looked_for, true)) return;
  looked_for_.push_back(peer);
  Wake();
}

CarrierEvent& UcxCarrier::AddEvent(CarrierEventKind kind, PeerId peer) {
  CarrierEvent& event = events_->emplace_back();
  event.kind = kind;
  event.peer = peer;
  Wake();
  return event;
}

void UcxCarrier::Poll(std::vector<CarrierEvent>* events) {
  now_ns_ = NowNs();
  // Not having looked for long is our own silence; what the peers said meanwhile waits to be read.
  if (const int64_t slept_ns = now_ns_ - polled_ns_; slept_ns > options_.liveness.heartbeat_ns) {
    for (const auto& [peer, held] : all_) peer->liveness.Overslept(slept_ns);
  }
  polled_ns_ = now_ns_;
  if (std::exchange(awake_, false)) {
    uint64_t ignored;
    [[maybe_unused]] const ssize_t n = ::read(wake_, &ignored, sizeof(ignored));
  }
  polling_ = true;
  const size_t before = events->size();
  events->insert(events->end(), std::make_move_iterator(early_.begin()),
                 std::make_move_iterator(early_.end()));
  early_.clear();
  events_ = events;
  auto enough = [&, calls = 0]() mutable {
    return ++calls >= kProgressPerPoll || events->size() - before >= kEventsPerPoll;
  };
  bool more = false;
  do {
    while (!more && ucp_worker_progress(ucx_->worker()) != 0) more = enough();
    AcceptWaiting();
    AttendAll();
    if (timer_on_ && now_ns_ >= next_tick_ns_) Tick();
    if (!more && looked_for_.empty() && ucp_worker_arm(ucx_->worker()) != UCS_ERR_BUSY) break;
  } while (!more && !(more = enough()));
  SetTimer(!all_.empty());
  events_ = &early_;
  polling_ = false;
  if (more || !looked_for_.empty()) Wake();
}

absl::Status UcxCarrier::Send(PeerId id, const Frame& frame) {
  UcxPeer* peer = Find(id);
  if (peer == nullptr) return NoPeer(id);
  if (peer->QueueFrame(Encode(frame))) ++frames_dropped_;
  if (peer->state == State::kUp) peer->SendFrames(now_ns_);
  return absl::OkStatus();
}

absl::Status UcxCarrier::Put(const PutRequest& put) {
  UcxPeer* peer = Find(put.peer);
  if (peer == nullptr) return NoPeer(put.peer);
  auto region = regions_.Find(put);
  if (!region.ok()) return region.status();
  if (auto status = peer->QueuePut(put, *std::move(region)); !status.ok()) return status;
  peer->SendPuts(now_ns_);
  Wake();
  return absl::OkStatus();
}

absl::StatusOr<UcxPeer*> UcxCarrier::NewPeer(State state, ucp_ep_params_t* params) {
  now_ns_ = NowNs();
  auto peer = std::make_unique<UcxPeer>(this, options_.limits, options_.liveness, state, now_ns_);
  peer->deadline_ns = now_ns_ + options_.join_ns_max;
  params->field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLER | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params->err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params->err_handler.cb = &OnError;
  params->err_handler.arg = peer.get();
  if (auto status = ucp_ep_create(ucx_->worker(), params, &peer->endpoint); status != UCS_OK)
    return FromUcs(status, "create an endpoint");
  UcxPeer* made = peer.get();
  by_endpoint_[made->endpoint] = made;
  all_[made] = std::move(peer);
  SetTimer(true);
  Look(made);
  return made;
}

absl::StatusOr<PeerId> UcxCarrier::Connect(std::string_view address, const AdmissionKey& key) {
  auto parsed = ParseSocketAddress(address, false);
  if (!parsed.ok()) return parsed.status();
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_SOCK_ADDR | UCP_EP_PARAM_FIELD_FLAGS;
  params.flags = UCP_EP_PARAMS_FLAGS_CLIENT_SERVER;
  params.sockaddr.addr = parsed->get();
  params.sockaddr.addrlen = parsed->length;
  auto peer = NewPeer(State::kJoining, &params);
  if (!peer.ok()) return peer.status();
  (*peer)->id = next_peer_++;
  peers_[(*peer)->id] = *peer;
  (*peer)->SendControl({ControlKind::kHello, self_, 0, key, {}}, now_ns_);
  return (*peer)->id;
}

void UcxCarrier::OnConnection(ucp_conn_request_h request, void* carrier) {
  static_cast<UcxCarrier*>(carrier)->connections_.push_back(request);
}

void UcxCarrier::AcceptWaiting() {
  for (const ucp_conn_request_h request : std::exchange(connections_, {})) {
    if (peers_.size() >= kPeersMax || Strangers() >= kStrangersMax) {
      ucp_listener_reject(listener_, request);
      continue;
    }
    ucp_ep_params_t params{};
    params.field_mask = UCP_EP_PARAM_FIELD_CONN_REQUEST | UCP_EP_PARAM_FIELD_FLAGS;
    params.conn_request = request;
    (void)NewPeer(State::kStranger, &params);  // one that cannot be made never was a peer
  }
}

size_t UcxCarrier::Strangers() const {
  return std::count_if(all_.begin(), all_.end(),
                       [](const auto& entry) { return entry.first->state == State::kStranger; });
}

void UcxCarrier::OnError(void* of, ucp_ep_h, ucs_status_t status) {
  auto* peer = static_cast<UcxPeer*>(of);
  if (peer->failure.ok()) {
    peer->failure =
        absl::UnavailableError(absl::StrCat("the connection broke: ", ucs_status_string(status)));
  }
  peer->owner->Look(peer);
}

void UcxCarrier::AttendAll() {
  for (UcxPeer* peer : std::exchange(looked_for_, {})) {
    peer->looked_for = false;
    Attend(peer);
  }
}

void UcxCarrier::Attend(UcxPeer* peer) {
  if (peer->state == State::kEnding) {
    if (peer->requests_out == 0) Finish(peer);
    return;
  }
  if (!peer->failure.ok()) return End(peer, peer->failure, peer->state != State::kLeaving);
  if (peer->state != State::kUp) return;
  peer->SendFrames(now_ns_);
  if (peer->status_due) SendStatus(peer);
  peer->SendPuts(now_ns_);
}

void UcxCarrier::SendStatus(UcxPeer* peer) {
  peer->SendControl({ControlKind::kStatus, self_, peer->frames_received, {}, {}}, now_ns_);
}

void UcxCarrier::PutEnded(UcxPeer*, const PutRequest& put, absl::Status status) {
  CarrierEvent& event = AddEvent(CarrierEventKind::kPutDone, put.peer);
  event.token = put.token;
  event.status = std::move(status);
}

void UcxCarrier::End(UcxPeer* peer, absl::Status why, bool announce) {
  if (peer->state == State::kEnding) return;
  peer->announce_gone = announce && peer->id != kNoPeer;
  if (peer->gone.ok()) peer->gone = std::move(why);  // else we had closed it
  peer->state = State::kEnding;
  peers_.erase(peer->id);
  regions_.Forget(peer->id);
  by_endpoint_.erase(peer->endpoint);
  peer->StopPuts(peer->gone);
  peer->CloseEndpoint();
  Look(peer);
}

void UcxCarrier::Finish(UcxPeer* peer) {
  if (peer->announce_gone) AddEvent(CarrierEventKind::kPeerGone, peer->id).status = peer->gone;
  all_.erase(peer);
}

void UcxCarrier::Close(PeerId id) {
  UcxPeer* peer = Find(id);
  if (peer == nullptr) return;
  const absl::Status why = absl::CancelledError(absl::StrCat("peer ", id, " was closed"));
  if (peer->state == State::kJoining) return End(peer, why, false);
  peer->SendFrames(now_ns_);
  peer->gone = why;
  peer->StopPuts(why);
  peer->state = State::kLeaving;
  peer->deadline_ns = NowNs() + options_.leave_ns_max;
  peers_.erase(id);
  peer->SendControl({ControlKind::kBye, self_, 0, {}, {}}, now_ns_);
  Look(peer);
}

void UcxCarrier::Sever(PeerId id) {
  const auto found = std::find_if(  // one that is leaving politely, too
      all_.begin(), all_.end(), [id](const auto& entry) { return entry.first->id == id; });
  if (id == kNoPeer || found == all_.end()) return;
  UcxPeer* peer = found->first;
  End(peer, absl::CancelledError(absl::StrCat("peer ", id, " was severed")), false);
  // UCX takes the sockets down in its progress; what comes for others meanwhile waits for Poll.
  const int64_t until_ns = NowNs() + options_.leave_ns_max;
  for (int quiet = 0; quiet < kQuietCallsAfterClose && NowNs() < until_ns;) {
    ucp_worker_progress(ucx_->worker());
    quiet = all_.contains(peer) && peer->requests_out > 0 ? 0 : quiet + 1;
  }
  Wake();
}

absl::StatusOr<RemoteRegionId> UcxCarrier::ImportRegion(PeerId id, std::string_view key) {
  const UcxPeer* peer = Find(id);
  if (peer == nullptr) return NoPeer(id);
  return regions_.Import(id, peer->remote_carrier, key);
}

void UcxCarrier::SetTimer(bool on) {
  if (timer_on_ == on) return;
  timer_on_ = on;
  next_tick_ns_ = NowNs() + tick_ns_;
  itimerspec times{};
  if (on) {
    times.it_value.tv_sec = times.it_interval.tv_sec = tick_ns_ / 1'000'000'000;
    times.it_value.tv_nsec = times.it_interval.tv_nsec = tick_ns_ % 1'000'000'000;
  }
  ::timerfd_settime(timer_, 0, &times, nullptr);
}

void UcxCarrier::Tick() {
  uint64_t ignored;
  [[maybe_unused]] const ssize_t n = ::read(timer_, &ignored, sizeof(ignored));
  next_tick_ns_ = now_ns_ + tick_ns_;
  std::vector<UcxPeer*> ending;
  for (const auto& [peer, held] : all_) {
    if (peer->state == State::kEnding || !peer->failure.ok()) continue;
    if (peer->state == State::kUp) {
      if (peer->liveness.MustSend(now_ns_)) SendStatus(peer);
      if (!peer->liveness.Silent(now_ns_)) continue;
      peer->failure = absl::UnavailableError(
          absl::StrCat("silent for ", peer->liveness.silent_ns(now_ns_), " ns"));
    } else {
      if (now_ns_ < peer->deadline_ns) continue;
      peer->failure =
          absl::UnavailableError(absl::StrCat("no answer within ", options_.join_ns_max, " ns"));
    }
    ending.push_back(peer);
  }
  for (UcxPeer* peer : ending) Look(peer);
}

absl::StatusOr<std::unique_ptr<ShardCarrier>> CreateUcxCarrier(const UcxOptions& options) {
  if (auto status = CheckLiveness(options.liveness); !status.ok()) return status;
  auto ucx = UcxWorker::Create(options.transports);
  if (!ucx.ok()) return ucx.status();
  auto carrier = std::make_unique<UcxCarrier>(options, *std::move(ucx), RandomId());
  if (auto status = carrier->Start(); !status.ok()) return status;
  return carrier;
}

}  // namespace muond
