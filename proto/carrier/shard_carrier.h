// ShardCarrier: a carrier between nodes. Frames as in carrier.h, and shards: bytes written one-sidedly into
// memory that the peer registered and told us the key of.
//
// One object both listens and connects; either end of a connection may put into the other's regions.
// Who may come in: Admit() names a secret key for one connection. The key travels by a trusted way (mTLS gRPC);
// a connection whose first message does not carry an admitted key is closed and never becomes a peer.
//
// Threads: one at a time, like any carrier. Nothing here blocks; data moves only within calls, at BOTH ends, so the
//          owner of either end polls event_descriptor() and calls Poll when it is readable.
// Units:   offsets and sizes in bytes.
// Errors:  a refused call changes nothing and makes no event. An accepted Put makes exactly one kPutDone:
//          OK, or why not: UNAVAILABLE when the peer died, CANCELLED after our own Close or Sever. Those of a dead
//          peer come before its kPeerGone.
// Order:   a frame that is sent after kPutDone of a put arrives after the put's bytes can be read by the peer's CPU.
//          Puts among themselves have no order.
// Ends:    Close lets what was sent arrive: until the other end has seen it, puts of both ends may still land. Sever
//          ends at once; after it, and after kPeerGone, none of the peer's puts lands here any more.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/carrier/carrier.h"

namespace muond {

using RegionId = uint64_t;        // memory of ours; never 0, never used again
using RemoteRegionId = uint64_t;  // memory of a peer; never 0, never used again

inline constexpr size_t kRegionKeyBytesMax = 1024;
inline constexpr size_t kRegionsMax = 4096;         // registered by one carrier
inline constexpr size_t kRemoteRegionsMax = 65536;  // imported by one carrier, over all peers
inline constexpr size_t kAdmissionsMax = 1024;      // keys that wait for their connection

using AdmissionKey = std::array<std::byte, 32>;  // secret and random
// From the kernel's random source.
absl::StatusOr<AdmissionKey> NewAdmissionKey();

// Back-pressure, for each peer. A put that alone is more than bytes_in_flight_max flies alone.
struct ShardLimits {
  size_t bytes_in_flight_max = size_t{256} << 20;
  size_t puts_in_flight_max = 64;
  size_t puts_queued_max = 4096;  // waiting for their turn; then Put is RESOURCE_EXHAUSTED
};

struct Region {
  RegionId id = 0;
  std::string key;  // for the peers; at most kRegionKeyBytesMax bytes, opaque
};

struct PutRequest {
  PeerId peer = kNoPeer;
  RemoteRegionId region = 0;
  uint64_t offset = 0;  // in that region
  const void* data =
      nullptr;              // valid and unchanged until kPutDone, or until the carrier is destroyed
  uint64_t size_bytes = 0;  // at least 1
  uint64_t token = 0;       // comes back in kPutDone; the caller's own
};

class ShardCarrier : public Carrier {
 public:
  // Where others connect to, "host:port"; empty when this carrier does not listen.
  virtual std::string address() const = 0;
  // What carries the bytes, for a metric label and `doctor`: "ucx tcp, host memory".
  virtual std::string path() const = 0;

  // Lets one connection with this key in; its kPeerUp has `tag` as token. Each key works once.
  // ALREADY_EXISTS for a key that waits; RESOURCE_EXHAUSTED beyond kAdmissionsMax.
  virtual absl::Status Admit(const AdmissionKey& key, uint64_t tag) = 0;
  // The key works no more. One that is unknown or used is ignored.
  virtual void Withdraw(const AdmissionKey& key) = 0;
  // A new peer, at once: frames and puts wait until the other end has let us in. When it does not, or is not there,
  // or does not answer within the carrier's time, its puts fail and kPeerGone follows. No kPeerUp at this end.
  // INVALID_ARGUMENT for what is no address.
  virtual absl::StatusOr<PeerId> Connect(std::string_view address, const AdmissionKey& key) = 0;

  // Ends the connection at once; what is under way is lost. After it returns, nothing of this peer lands in our memory:
  // the fence before a region's memory is given to someone else. No kPeerGone follows; an unknown peer is ignored.
  virtual void Sever(PeerId peer) = 0;

  // Lets peers who are given the key write into [base, base + size_bytes). The memory stays valid until Unregister.
  // INVALID_ARGUMENT for null, zero or overflowing ranges; RESOURCE_EXHAUSTED beyond kRegionsMax.
  virtual absl::StatusOr<Region> Register(void* base, uint64_t size_bytes) = 0;
  // Puts into it fail from now on. NOT_FOUND if unknown; FAILED_PRECONDITION, and nothing changed, while the bytes of a
  // put land in it: sever that peer first.
  virtual absl::Status Unregister(RegionId region) = 0;

  // The peer's region behind a key that Register made at its end. Ends with the peer.
  // NOT_FOUND when the peer is gone; INVALID_ARGUMENT for what is no key, or that of another carrier.
  virtual absl::StatusOr<RemoteRegionId> ImportRegion(PeerId peer, std::string_view key) = 0;
  virtual void ReleaseRegion(RemoteRegionId region) = 0;  // puts that were accepted still run

  // Writes into the peer's region. kPutDone follows once the bytes lie there, or once they never will.
  // NOT_FOUND: peer or region gone. OUT_OF_RANGE, with the numbers: beyond the region. INVALID_ARGUMENT: no bytes, or
  // a region of another peer. RESOURCE_EXHAUSTED: the peer's queue is full.
  virtual absl::Status Put(const PutRequest& put) = 0;
  // Puts that were accepted and are not done, over all peers.
  virtual size_t puts_pending() const = 0;
};

}  // namespace muond
