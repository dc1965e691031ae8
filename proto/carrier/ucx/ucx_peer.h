// What the UCX carrier knows of one connection. Bookkeeping and UCX calls of that connection; ucx_carrier.cc decides.
//
// A put goes in pieces. Each is an active message: a header that names the receiver's region and the place in it, and
// the bytes, which UCX moves straight into the place when the receiver has checked it (large ones by rendezvous). The
// receiver answers kLanded once they lie there.
// Threads: those of the carrier.
#pragma once

#include <ucp/api/ucp.h>

#include <array>
#include <cstdint>
#include <deque>
#include <list>

#include "absl/status/status.h"
#include "proto/carrier/liveness.h"
#include "proto/carrier/put_window.h"
#include "proto/carrier/ucx/messages.h"
#include "proto/carrier/ucx/ucx_regions.h"
#include "proto/wire/frame.h"

namespace muond {

// Active message ids.
inline constexpr unsigned kFrameMessage = 1;
inline constexpr unsigned kControlMessage = 2;
inline constexpr unsigned kPieceMessage = 3;

// Few pieces at a time, so that heartbeats and frames pass between them.
inline constexpr uint64_t kPieceBytesMax = uint64_t{1} << 20;
inline constexpr size_t kPiecesOutMax = 8;
// Frames that the other end has not counted yet. It tells its count every kFramesPerStatus.
inline constexpr uint64_t kFrameWindow = 256;
inline constexpr uint64_t kFramesPerStatus = 64;

class UcxPeer {
 public:
  enum class State {
    kStranger,  // connected to us, has not shown its key
    kJoining,   // we connected, no answer yet
    kUp,
    kLeaving,  // we said bye and wait for the other end to go
    kEnding,   // the endpoint is closed; UCX still holds requests of it
  };
  using FrameBytes = std::array<std::byte, kFrameBytes>;
  class Owner {
   public:
    virtual ~Owner() = default;
    // Something changed that the carrier has to look at after UCX's progress.
    virtual void Look(UcxPeer* peer) = 0;
    virtual void PutEnded(UcxPeer* peer, const PutRequest& put, absl::Status status) = 0;
  };

  UcxPeer(Owner* owner, const ShardLimits& limits, const LivenessOptions& liveness, State state,
          int64_t now_ns)
      : owner(owner), state(state), liveness(liveness, now_ns), window_(limits) {}
  UcxPeer(const UcxPeer&) = delete;
  UcxPeer& operator=(const UcxPeer&) = delete;

  // Sends the first of the waiting frames as far as the window reaches.
  void SendFrames(int64_t now_ns);
  // Queues; true when an older frame had to go.
  bool QueueFrame(const FrameBytes& bytes);
  // OUT_OF_RANGE when the other end claims more than was sent.
  absl::Status Acknowledge(uint64_t frames_received);
  // Hello, welcome, bye: once each. A status that finds its place taken is due later.
  void SendControl(const Control& control, int64_t now_ns);

  absl::Status QueuePut(const PutRequest& put, const RegionKey& region);
  // Starts puts and their pieces as far as the window reaches.
  void SendPuts(int64_t now_ns);
  // The other end's answer to a piece. NOT_FOUND when no such piece is out.
  absl::Status Landed(uint64_t number, absl::StatusCode code);
  // Ends those that wait with `why`, and lets those that fly end as soon as nothing of them is under way.
  void StopPuts(const absl::Status& why);
  size_t puts_pending() const { return window_.waiting() + window_.in_flight(); }

  // A piece from the other end, for `region` (null: it is not registered). Checks it, and answers now or when its bytes
  // have come. RESOURCE_EXHAUSTED when more are under way than the other end may have out.
  absl::Status Land(const PieceHeader& header, UcxLocalRegion* region, ucp_worker_h worker,
                    void* data, size_t length, bool rendezvous);

  // Closes the endpoint without ceremony. No answer comes any more: what is out ends when UCX lets go of it.
  void CloseEndpoint();

  Owner* const owner;
  State state;
  PeerId id = kNoPeer;
  ucp_ep_h endpoint = nullptr;
  uint64_t remote_carrier = 0;  // 0: not known yet
  int64_t deadline_ns = 0;      // kStranger, kJoining, kLeaving
  Liveness liveness;
  bool looked_for = false;     // Look was called
  absl::Status failure;        // why it must end; OK while it need not
  bool announce_gone = false;  // kEnding: kPeerGone follows
  absl::Status gone;           // why it ended
  int bad_messages = 0;
  uint64_t frames_received = 0;
  uint64_t frames_told = 0;  // of those, what the other end knows
  bool status_due = false;
  size_t requests_out = 0;  // what UCX still holds

 private:
  struct Flight {  // a put that flies
    PutRequest put;
    RegionKey region;
    uint64_t issued_bytes = 0;
    size_t pieces_out = 0;
    absl::Status status;
  };
  struct Piece {
    UcxPeer* peer = nullptr;
    std::list<Flight>::iterator flight;
    std::array<std::byte, kPieceHeaderBytes> header;
    uint64_t number = 0;
    bool busy = false;
    bool sent = false;    // UCX needs its bytes no more
    bool landed = false;  // the other end has answered, or never will
  };
  struct Landing {  // a piece from the other end
    UcxPeer* peer = nullptr;
    UcxLocalRegion* region = nullptr;
    uint64_t number = 0;
    std::array<std::byte, kControlBytes> answer;
    std::list<Landing>::iterator self;
  };
  struct Message {
    unsigned id;
    const void* header;
    size_t header_bytes;
    const void* bytes;
    size_t size_bytes;
    uint32_t flags;
  };
  // True when UCX is done with it already; false: `callback` will say, with `user`.
  bool SendMessage(const Message& message, ucp_send_nbx_callback_t callback, void* user);
  void Fail(ucs_status_t status);
  bool StartFlight();
  Piece* FreePiece();
  void SendPiece(Piece* piece);
  void SettlePiece(Piece* piece);
  void SettleFlight(std::list<Flight>::iterator flight);
  void Answer(Landing* landing, absl::StatusCode code);

  static void MessageSent(void* request, ucs_status_t status, void* peer);
  static void StatusSent(void* request, ucs_status_t status, void* peer);
  static void PieceSent(void* request, ucs_status_t status, void* piece);
  static void LandingReceived(void* request, ucs_status_t status, size_t length, void* landing);
  static void LandingAnswered(void* request, ucs_status_t status, void* landing);

  std::deque<FrameBytes> frames_waiting_;
  std::array<FrameBytes, kFrameWindow>
      frames_out_;  // by number, until the other end has counted it
  uint64_t frames_sent_ = 0;
  uint64_t frames_counted_ = 0;                                       // by the other end
  std::array<std::array<std::byte, kControlBytes>, 6> controls_out_;  // one place for each kind
  bool status_out_ = false;

  PutWindow window_;
  std::deque<RegionKey> regions_waiting_;  // of the window's waiting puts
  std::list<Flight> flights_;
  std::list<Flight>::iterator issuing_ = flights_.end();  // the one whose pieces are being sent
  std::array<Piece, kPiecesOutMax> pieces_;
  uint64_t next_piece_ = 1;
  std::list<Landing> landings_;
};

}  // namespace muond
