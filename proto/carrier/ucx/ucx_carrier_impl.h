// UcxCarrier: the class behind ucx_carrier.h. ucx_carrier.cc holds what its owner calls and what it does by itself,
// ucx_receive.cc what UCX calls when messages come.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "proto/carrier/admissions.h"
#include "proto/carrier/ucx/messages.h"
#include "proto/carrier/ucx/ucx_carrier.h"
#include "proto/carrier/ucx/ucx_peer.h"
#include "proto/carrier/ucx/ucx_regions.h"
#include "proto/carrier/ucx/ucx_worker.h"

namespace muond {

class UcxCarrier : public ShardCarrier, public UcxPeer::Owner {
 public:
  UcxCarrier(const UcxOptions& options, std::unique_ptr<UcxWorker> ucx, uint64_t self)
      : options_(options), ucx_(std::move(ucx)), self_(self), regions_(*ucx_, self_) {}
  ~UcxCarrier() override;
  absl::Status Start();

  int event_descriptor() const override { return epoll_; }
  void Poll(std::vector<CarrierEvent>* events) override;
  absl::Status Send(PeerId peer, const Frame& frame) override;
  void Close(PeerId peer) override;
  uint64_t frames_dropped() const override { return frames_dropped_; }

  std::string address() const override { return address_; }
  std::string path() const override { return ucx_->description(); }
  absl::Status Admit(const AdmissionKey& key, uint64_t tag) override {
    return admissions_.Add(key, tag);
  }
  void Withdraw(const AdmissionKey& key) override { admissions_.Withdraw(key); }
  absl::StatusOr<PeerId> Connect(std::string_view address, const AdmissionKey& key) override;
  void Sever(PeerId peer) override;
  absl::StatusOr<Region> Register(void* base, uint64_t size_bytes) override {
    return regions_.Register(base, size_bytes);
  }
  absl::Status Unregister(RegionId region) override { return regions_.Unregister(region); }
  absl::StatusOr<RemoteRegionId> ImportRegion(PeerId peer, std::string_view key) override;
  void ReleaseRegion(RemoteRegionId region) override { regions_.Release(region); }
  absl::Status Put(const PutRequest& put) override;
  size_t puts_pending() const override {
    size_t pending = 0;
    for (const auto& [peer, held] : all_) pending += peer->puts_pending();
    return pending;
  }

 private:
  // UcxPeer::Owner
  void Look(UcxPeer* peer) override;
  void PutEnded(UcxPeer* peer, const PutRequest& put, absl::Status status) override;

  // Called by UCX within its progress.
  static void OnConnection(ucp_conn_request_h request, void* carrier);
  static void OnError(void* peer, ucp_ep_h endpoint, ucs_status_t status);
  static ucs_status_t OnFrameMessage(void* carrier, const void* header, size_t header_length,
                                     void* data, size_t length, const ucp_am_recv_param_t* param);
  static ucs_status_t OnControlMessage(void* carrier, const void* header, size_t header_length,
                                       void* data, size_t length, const ucp_am_recv_param_t* param);
  static ucs_status_t OnPieceMessage(void* carrier, const void* header, size_t header_length,
                                     void* data, size_t length, const ucp_am_recv_param_t* param);
  UcxPeer* SenderOf(const ucp_am_recv_param_t* param);
  void OnFrame(UcxPeer* peer, std::span<const std::byte> bytes, bool whole);
  void OnControl(UcxPeer* peer, const Control& control);
  void OnHello(UcxPeer* peer, const Control& hello);
  void BadMessage(UcxPeer* peer, absl::Status why);

  UcxPeer* Find(PeerId peer) const {
    const auto found = peers_.find(peer);
    return found == peers_.end() ? nullptr : found->second;
  }
  absl::StatusOr<UcxPeer*> NewPeer(UcxPeer::State state, ucp_ep_params_t* params);
  void AcceptWaiting();
  void AttendAll();
  void Attend(UcxPeer* peer);
  void SendStatus(UcxPeer* peer);
  // Ends it: puts, endpoint; the rest when UCX has let go.
  void End(UcxPeer* peer, absl::Status why, bool announce);
  void Finish(UcxPeer* peer);
  void Tick();
  void SetTimer(bool on);
  CarrierEvent& AddEvent(CarrierEventKind kind, PeerId peer);
  void Wake();
  size_t Strangers() const;

  const UcxOptions options_;
  const std::unique_ptr<UcxWorker> ucx_;
  const uint64_t self_;  // this carrier, in keys and hellos
  UcxRegions regions_;
  std::string address_;
  ucp_listener_h listener_ = nullptr;
  int epoll_ = -1, wake_ = -1, timer_ = -1;
  bool polling_ = false;
  bool awake_ = false;  // wake_ is readable
  bool timer_on_ = false;
  int64_t now_ns_ = 0, polled_ns_ = 0, next_tick_ns_ = 0;
  const int64_t tick_ns_ = options_.liveness.heartbeat_ns / 2;

  Admissions admissions_;
  std::unordered_map<UcxPeer*, std::unique_ptr<UcxPeer>> all_;
  std::unordered_map<PeerId, UcxPeer*> peers_;  // those that the owner knows
  std::unordered_map<ucp_ep_h, UcxPeer*> by_endpoint_;
  std::vector<ucp_conn_request_h> connections_;  // not looked at yet
  std::vector<UcxPeer*> looked_for_;
  PeerId next_peer_ = 1;
  std::vector<CarrierEvent> early_;  // outside of Poll
  std::vector<CarrierEvent>* events_ = &early_;
  uint64_t frames_dropped_ = 0;
};

}  // namespace muond
