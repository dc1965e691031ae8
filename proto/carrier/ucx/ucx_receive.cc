#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ucx/ucx_carrier_impl.h"

namespace muond {

using State = UcxPeer::State;

UcxPeer* UcxCarrier::SenderOf(const ucp_am_recv_param_t* param) {
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FIELD_REPLY_EP) == 0) return nullptr;
  const auto found = by_endpoint_.find(param->reply_ep);
  if (found == by_endpoint_.end()) return nullptr;
  found->second->liveness.Heard(now_ns_);
  return found->second;
}

ucs_status_t UcxCarrier::OnFrameMessage(void* self, const void*, size_t header_length, void* data,
                                        size_t length, const ucp_am_recv_param_t* param) {
  auto* carrier = static_cast<UcxCarrier*>(self);
  if (UcxPeer* peer = carrier->SenderOf(param); peer != nullptr) {
    const bool whole = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0 && header_length == 0;
    carrier->OnFrame(peer, {static_cast<const std::byte*>(data), length}, whole);
  }
  return UCS_OK;
}

ucs_status_t UcxCarrier::OnControlMessage(void* self, const void*, size_t header_length, void* data,
                                          size_t length, const ucp_am_recv_param_t* param) {
  auto* carrier = static_cast<UcxCarrier*>(self);
  UcxPeer* peer = carrier->SenderOf(param);
  if (peer == nullptr) return UCS_OK;
  absl::StatusOr<Control> control = absl::InvalidArgumentError(
      absl::StrCat("a control message has ", kControlBytes, " bytes, this one has ", length));
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) == 0 && header_length == 0)
    control = DecodeControl({static_cast<const std::byte*>(data), length});
  if (control.ok())
    carrier->OnControl(peer, *control);
  else
    carrier->BadMessage(peer, control.status());
  return UCS_OK;
}

ucs_status_t UcxCarrier::OnPieceMessage(void* self, const void* header, size_t header_length,
                                        void* data, size_t length,
                                        const ucp_am_recv_param_t* param) {
  auto* carrier = static_cast<UcxCarrier*>(self);
  UcxPeer* peer = carrier->SenderOf(param);
  if (peer == nullptr || peer->state == State::kLeaving) return UCS_OK;
  auto piece = DecodePieceHeader({static_cast<const std::byte*>(header), header_length});
  absl::Status status = piece.status();
  if (peer->state != State::kUp) {
    status = absl::InvalidArgumentError("a put before the key was shown");
  } else if (status.ok()) {
    const bool rendezvous = (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0;
    status = peer->Land(*piece, carrier->regions_.Local(piece->region), carrier->ucx_->worker(),
                        data, length, rendezvous);
  }
  if (!status.ok()) carrier->BadMessage(peer, std::move(status));
  return UCS_OK;
}

void UcxCarrier::OnFrame(UcxPeer* peer, std::span<const std::byte> bytes, bool whole) {
  if (peer->state == State::kLeaving) return;
  if (peer->state != State::kUp)
    return BadMessage(peer, absl::InvalidArgumentError("a frame before the key was shown"));
  if (++peer->frames_received - peer->frames_told >= kFramesPerStatus) {
    peer->status_due = true;
    Look(peer);
  }
  if (!whole || bytes.size() != kFrameBytes) {
    return BadMessage(
        peer, absl::InvalidArgumentError(absl::StrCat("a frame has ", kFrameBytes,
                                                      " bytes, this message has ", bytes.size())));
  }
  const auto frame = Decode(bytes);
  if (!frame.ok()) return BadMessage(peer, frame.status());
  AddEvent(CarrierEventKind::kFrame, peer->id).frame = *frame;
}

void UcxCarrier::OnControl(UcxPeer* peer, const Control& control) {
  switch (control.kind) {
    case ControlKind::kHello:
      if (peer->state == State::kStranger) return OnHello(peer, control);
      break;
    case ControlKind::kWelcome:
      if (peer->state != State::kJoining) break;
      peer->state = State::kUp;
      peer->remote_carrier = control.carrier;
      return Look(peer);
    case ControlKind::kStatus:
      if (peer->state != State::kUp) break;
      if (auto status = peer->Acknowledge(control.value); !status.ok())
        return BadMessage(peer, std::move(status));
      return Look(peer);
    case ControlKind::kLanded:
      if (peer->state != State::kUp && peer->state != State::kLeaving) break;
      if (auto status = peer->Landed(control.value, control.code); !status.ok())
        return BadMessage(peer, std::move(status));
      return Look(peer);
    case ControlKind::kBye:
      if (peer->failure.ok())
        peer->failure = absl::UnavailableError("the peer closed its connection");
      return Look(peer);
  }
  BadMessage(peer, absl::InvalidArgumentError(
                       absl::StrCat("control message ", control.kind, " in state ", peer->state)));
}

void UcxCarrier::OnHello(UcxPeer* peer, const Control& hello) {
  const auto tag = peers_.size() < kPeersMax ? admissions_.Take(hello.key) : std::nullopt;
  if (!tag.has_value()) {
    peer->failure = absl::PermissionDeniedError("a key that nobody admitted");
    return Look(peer);
  }
  peer->state = State::kUp;
  peer->remote_carrier = hello.carrier;
  peer->id = next_peer_++;
  peers_[peer->id] = peer;
  peer->SendControl({ControlKind::kWelcome, self_, 0, {}, {}}, now_ns_);
  AddEvent(CarrierEventKind::kPeerUp, peer->id).token = *tag;
}

void UcxCarrier::BadMessage(UcxPeer* peer, absl::Status why) {
  if (peer->state == State::kLeaving) return;
  if (peer->state != State::kUp) {
    if (peer->failure.ok()) peer->failure = std::move(why);
    return Look(peer);
  }
  AddEvent(CarrierEventKind::kBadMessage, peer->id).status = std::move(why);
  if (++peer->bad_messages < kBadMessagesMax || !peer->failure.ok()) return;
  peer->failure =
      absl::InvalidArgumentError(absl::StrCat(kBadMessagesMax, " bad messages from one peer"));
  Look(peer);
}

}  // namespace muond
