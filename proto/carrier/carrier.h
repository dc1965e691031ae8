// Carrier: a way to exchange frames with peers. Frames are doorbells: they may be lost and
// repeated, never garbled or split.
//
// A peer is one connection; its id is never used again. Both sides use the same interface: a
// listening carrier learns of peers by kPeerUp, a connecting one has its peer from the factory.
// Nothing here blocks. Threads: one at a time; the owner polls event_descriptor() (epoll, poll)
// together with whatever else it waits for. Errors:  a message that is not exactly one valid frame
// is kBadMessage with the numbers; the peer stays. A peer that sent
//          kBadMessagesMax of them, or broke its connection, is gone: kPeerGone, once, the last
//          event of that peer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "proto/wire/frame.h"

namespace muond {

using PeerId = uint64_t;  // never 0
inline constexpr PeerId kNoPeer = 0;

inline constexpr size_t kPeersMax =
    1024;  // connections of one listening carrier; more are closed at once
inline constexpr size_t kFramesQueuedMax =
    256;  // a peer's unsent frames; then the oldest goes, the newest stays
inline constexpr int kBadMessagesMax = 16;

// Who is at the other end, as the kernel says; zeros where the carrier cannot know.
struct PeerCredentials {
  int32_t pid = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

enum class CarrierEventKind : uint8_t {
  kPeerUp = 1,
  kFrame = 2,
  kBadMessage = 3,
  kPeerGone = 4,
  kPutDone = 5,  // of a ShardCarrier (shard_carrier.h) alone
};
struct CarrierEvent {
  CarrierEventKind kind = CarrierEventKind::kFrame;
  PeerId peer = kNoPeer;
  Frame frame;                  // kFrame
  PeerCredentials credentials;  // kPeerUp
  uint64_t token = 0;   // kPutDone: the put's; kPeerUp of a ShardCarrier: what Admit was told
  absl::Status status;  // kBadMessage, kPeerGone: why; kPutDone: OK or why not
};

class Carrier {
 public:
  virtual ~Carrier() = default;
  // Readable while Poll has something to do. Borrowed: valid while the carrier lives.
  virtual int event_descriptor() const = 0;
  // Appends what has happened to `events`, in order per peer, and sends what was waiting for room.
  // At most a few hundred events a call: while there are more, event_descriptor() stays readable.
  virtual void Poll(std::vector<CarrierEvent>* events) = 0;
  // Sends, or queues when the peer does not read. NOT_FOUND when the peer is gone. OK does not mean
  // that it arrives.
  virtual absl::Status Send(PeerId peer, const Frame& frame) = 0;
  // Ends the connection after what is queued was offered once; no kPeerGone follows. An unknown
  // peer is ignored.
  virtual void Close(PeerId peer) = 0;
  // Frames that were pushed out of full queues so far.
  virtual uint64_t frames_dropped() const = 0;
};

}  // namespace muond
