// SlabFetch: a rank's side of the keeper's socket. It gets the descriptors granted to its session,
// and keeps the connection: while that is open the keeper lives, and the keeper knows that the rank
// lives. Threads: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/carrier/ipc/descriptor_channel.h"

namespace muond {

class SlabFetch {
 public:
  // Connects and receives every slab granted to `session`. PERMISSION_DENIED when the keeper knows
  // no such grant, UNAVAILABLE when no keeper listens, DEADLINE_EXCEEDED.
  static absl::StatusOr<std::unique_ptr<SlabFetch>> Open(const std::string& keeper_socket,
                                                         uint64_t session, int timeout_ms);
  // In the order of the grants; the caller takes descriptors out. Each message tells kind, rank,
  // device, size_bytes.
  std::vector<DescriptorMessage>& slabs() { return slabs_; }
  // Readable (POLLHUP) once the keeper is gone.
  int event_descriptor() const { return channel_.socket(); }
  bool keeper_gone() const;

 private:
  explicit SlabFetch(DescriptorChannel channel) : channel_(std::move(channel)) {}
  DescriptorChannel channel_;
  std::vector<DescriptorMessage> slabs_;
};

}  // namespace muond
