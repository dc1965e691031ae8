#include "proto/carrier/ucx/ucx_peer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ucx/ucx_worker.h"

namespace muond {
namespace {

// REPLY: the receiver learns whose it is.
constexpr uint32_t kSmall = UCP_AM_SEND_FLAG_EAGER | UCP_AM_SEND_FLAG_REPLY;

}  // namespace

void UcxPeer::Fail(ucs_status_t status) {
  if (failure.ok()) {
    failure = absl::UnavailableError(
        absl::StrCat("a message cannot be sent: ", ucs_status_string(status)));
  }
  owner->Look(this);
}

bool UcxPeer::SendMessage(const Message& message, ucp_send_nbx_callback_t callback, void* user) {
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = message.flags;
  param.cb.send = callback;
  param.user_data = user;
  const ucs_status_ptr_t sent =
      ucp_am_send_nbx(endpoint, message.id, message.header, message.header_bytes, message.bytes,
                      message.size_bytes, &param);
  if (sent == nullptr) return true;
  if (UCS_PTR_IS_ERR(sent)) {
    Fail(UCS_PTR_STATUS(sent));
    return true;
  }
  ++requests_out;
  owner->Look(this);  // UCX goes on with it in its progress
  return false;
}

void UcxPeer::MessageSent(void* request, ucs_status_t status, void* self) {
  auto* peer = static_cast<UcxPeer*>(self);
  ucp_request_free(request);
  --peer->requests_out;
  if (status != UCS_OK) peer->Fail(status);
  peer->owner->Look(peer);
}

void UcxPeer::StatusSent(void* request, ucs_status_t status, void* self) {
  static_cast<UcxPeer*>(self)->status_out_ = false;
  MessageSent(request, status, self);
}

bool UcxPeer::QueueFrame(const FrameBytes& bytes) {
  const bool full = frames_waiting_.size() >= kFramesQueuedMax;
  if (full) frames_waiting_.pop_front();
  frames_waiting_.push_back(bytes);
  return full;
}

void UcxPeer::SendFrames(int64_t now_ns) {
  while (!frames_waiting_.empty() && frames_sent_ - frames_counted_ < kFrameWindow &&
         failure.ok()) {
    FrameBytes& place = frames_out_[frames_sent_ % kFrameWindow];
    place = frames_waiting_.front();
    frames_waiting_.pop_front();
    ++frames_sent_;
    liveness.Sent(now_ns);
    SendMessage({kFrameMessage, nullptr, 0, place.data(), place.size(), kSmall}, &MessageSent,
                this);
  }
}

absl::Status UcxPeer::Acknowledge(uint64_t frames) {
  if (frames < frames_counted_ || frames > frames_sent_) {
    return absl::OutOfRangeError(absl::StrCat("the peer counts ", frames, " frames, it counted ",
                                              frames_counted_, " and ", frames_sent_,
                                              " were sent"));
  }
  frames_counted_ = frames;
  return absl::OkStatus();
}

void UcxPeer::SendControl(const Control& control, int64_t now_ns) {
  const bool is_status = control.kind == ControlKind::kStatus;
  if (is_status) {
    status_due = status_out_;
    if (status_out_) return;
    frames_told = control.value;
  }
  auto& place = controls_out_[static_cast<size_t>(control.kind)];
  place = Encode(control);
  liveness.Sent(now_ns);
  const bool sent = SendMessage({kControlMessage, nullptr, 0, place.data(), place.size(), kSmall},
                                is_status ? &StatusSent : &MessageSent, this);
  if (is_status) status_out_ = !sent;
}

absl::Status UcxPeer::QueuePut(const PutRequest& put, const RegionKey& region) {
  if (auto status = window_.Add(put); !status.ok()) return status;
  regions_waiting_.push_back(region);
  return absl::OkStatus();
}

bool UcxPeer::StartFlight() {
  const auto put = window_.Next();
  if (!put.has_value()) return false;
  issuing_ = flights_.insert(flights_.end(), {*put, regions_waiting_.front(), 0, 0, {}});
  regions_waiting_.pop_front();
  if (issuing_->region.carrier != remote_carrier) {
    issuing_->status = absl::InvalidArgumentError(absl::StrCat("the region belongs to carrier ",
                                                               issuing_->region.carrier,
                                                               ", the peer is ", remote_carrier));
  }
  return true;
}

UcxPeer::Piece* UcxPeer::FreePiece() {
  const auto free =
      std::find_if(pieces_.begin(), pieces_.end(), [](const Piece& piece) { return !piece.busy; });
  return free == pieces_.end() ? nullptr : &*free;
}

void UcxPeer::SendPuts(int64_t now_ns) {
  while (state == State::kUp && failure.ok()) {
    Piece* piece = FreePiece();
    if (piece == nullptr || (issuing_ == flights_.end() && !StartFlight())) return;
    if (issuing_->status.ok() && issuing_->issued_bytes < issuing_->put.size_bytes) {
      SendPiece(piece);
      liveness.Sent(now_ns);
    } else {
      SettleFlight(std::exchange(issuing_, flights_.end()));
    }
  }
}

void UcxPeer::SendPiece(Piece* piece) {
  Flight& flight = *issuing_;
  const uint64_t size = std::min(kPieceBytesMax, flight.put.size_bytes - flight.issued_bytes);
  *piece = {this, issuing_, {}, next_piece_++, true, false, false};
  piece->header = Encode(PieceHeader{piece->number, flight.region.region,
                                     flight.put.offset + flight.issued_bytes, size});
  const auto* bytes = static_cast<const std::byte*>(flight.put.data) + flight.issued_bytes;
  flight.issued_bytes += size;
  ++flight.pieces_out;
  const uint32_t flags =
      UCP_AM_SEND_FLAG_REPLY | (flight.region.device ? UCP_AM_SEND_FLAG_RNDV : 0);
  piece->sent = SendMessage({kPieceMessage, piece->header.data(), piece->header.size(), bytes,
                             static_cast<size_t>(size), flags},
                            &PieceSent, piece);
  if (flight.issued_bytes == flight.put.size_bytes) issuing_ = flights_.end();
}

void UcxPeer::PieceSent(void* request, ucs_status_t status, void* of) {
  auto* piece = static_cast<Piece*>(of);
  UcxPeer* peer = piece->peer;
  piece->sent = true;
  if (status != UCS_OK) {
    if (piece->flight->status.ok()) piece->flight->status = FromUcs(status, "put");
    piece->landed = true;
  }
  peer->SettlePiece(piece);
  MessageSent(request, peer->endpoint == nullptr ? UCS_OK : status, peer);
}

absl::Status UcxPeer::Landed(uint64_t number, absl::StatusCode code) {
  const auto piece = std::find_if(pieces_.begin(), pieces_.end(), [number](const Piece& out) {
    return out.busy && !out.landed && out.number == number;
  });
  if (piece == pieces_.end())
    return absl::NotFoundError(absl::StrCat("an answer to piece ", number, ", which is not out"));
  piece->landed = true;
  if (code != absl::StatusCode::kOk && piece->flight->status.ok()) {
    piece->flight->status = absl::Status(code, "the peer refused the bytes");
  }
  SettlePiece(&*piece);
  return absl::OkStatus();
}

void UcxPeer::SettlePiece(Piece* piece) {
  if (!piece->busy || !piece->sent || !piece->landed) return;
  piece->busy = false;
  --piece->flight->pieces_out;
  if (piece->flight != issuing_) SettleFlight(piece->flight);
  owner->Look(this);
}

void UcxPeer::SettleFlight(std::list<Flight>::iterator flight) {
  if (flight->pieces_out > 0) return;
  const PutRequest put = flight->put;
  absl::Status status = std::move(flight->status);
  if (!status.ok() && !gone.ok()) status = gone;
  flights_.erase(flight);
  window_.Ended(put.size_bytes);
  owner->PutEnded(this, put, std::move(status));
}

void UcxPeer::StopPuts(const absl::Status& why) {
  while (const auto put = window_.TakeWaiting()) {
    regions_waiting_.pop_front();
    owner->PutEnded(this, *put, why);
  }
  if (issuing_ == flights_.end()) return;
  if (issuing_->status.ok()) issuing_->status = why;
  SettleFlight(std::exchange(issuing_, flights_.end()));
}

absl::Status UcxPeer::Land(const PieceHeader& header, UcxLocalRegion* region, ucp_worker_h worker,
                           void* data, size_t length, bool rendezvous) {
  if (landings_.size() >= 2 * kPiecesOutMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(landings_.size(), " pieces of the peer are under way"));
  }
  Landing& landing = landings_.emplace_back();
  landing.self = std::prev(landings_.end());
  landing.peer = this;
  landing.region = region;
  landing.number = header.number;
  const bool fits = region != nullptr && header.offset <= region->size_bytes &&
                    length <= region->size_bytes - header.offset && length == header.size_bytes;
  if (!fits) {
    Answer(&landing, region == nullptr ? absl::StatusCode::kFailedPrecondition
                                       : absl::StatusCode::kOutOfRange);
    return absl::OkStatus();
  }
  if (!rendezvous) {
    if (!region->device) std::memcpy(region->base + header.offset, data, length);
    Answer(&landing, region->device ? absl::StatusCode::kUnimplemented : absl::StatusCode::kOk);
    return absl::OkStatus();
  }
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.recv_am = &LandingReceived;
  param.user_data = &landing;
  ++region->landing;
  const ucs_status_ptr_t receiving =
      ucp_am_recv_data_nbx(worker, data, region->base + header.offset, length, &param);
  if (receiving != nullptr && !UCS_PTR_IS_ERR(receiving)) {
    ++requests_out;
    return absl::OkStatus();
  }
  --region->landing;
  Answer(&landing, receiving == nullptr ? absl::StatusCode::kOk : absl::StatusCode::kUnavailable);
  return absl::OkStatus();
}

void UcxPeer::LandingReceived(void* request, ucs_status_t status, size_t, void* of) {
  auto* landing = static_cast<Landing*>(of);
  UcxPeer* peer = landing->peer;
  ucp_request_free(request);
  --peer->requests_out;
  --landing->region->landing;
  peer->Answer(landing, status == UCS_OK ? absl::StatusCode::kOk : absl::StatusCode::kUnavailable);
  peer->owner->Look(peer);
}

void UcxPeer::Answer(Landing* landing, absl::StatusCode code) {
  Control answer;
  answer.kind = ControlKind::kLanded;
  answer.value = landing->number;
  answer.code = code;
  landing->answer = Encode(answer);
  if (endpoint == nullptr || SendMessage({kControlMessage, nullptr, 0, landing->answer.data(),
                                          landing->answer.size(), kSmall},
                                         &LandingAnswered, landing)) {
    landings_.erase(landing->self);
  }
}

void UcxPeer::LandingAnswered(void* request, ucs_status_t status, void* of) {
  auto* landing = static_cast<Landing*>(of);
  UcxPeer* peer = landing->peer;
  peer->landings_.erase(landing->self);
  MessageSent(request, status, peer);
}

void UcxPeer::CloseEndpoint() {
  ucp_request_param_t param{};
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  param.cb.send = &MessageSent;
  param.user_data = this;
  const ucs_status_ptr_t closed = ucp_ep_close_nbx(std::exchange(endpoint, nullptr), &param);
  if (closed != nullptr && !UCS_PTR_IS_ERR(closed)) ++requests_out;
  for (Piece& piece : pieces_) {
    if (!piece.busy || piece.landed) continue;
    piece.landed = true;
    if (piece.flight->status.ok()) piece.flight->status = gone;
    SettlePiece(&piece);
  }
}

}  // namespace muond
