// Membership: which daemons are there, by leases. `now` is an argument; nothing here reads a clock.
// Threads: one caller at a time.   Units: leases in absl::Duration.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/types/coordinator_calls.h"

namespace muond {

// Equal but for their free bytes.
bool SameDevices(const std::vector<DeviceSpec>& a, const std::vector<DeviceSpec>& b);

class Membership {
 public:
  explicit Membership(absl::Duration lease) : lease_(lease) {}

  absl::Duration lease() const { return lease_; }

  // Enters a daemon, or renews it under its id; true when it is new or its devices are others than before (their free
  // bytes aside).
  bool Enter(const std::string& daemon, const RegisterCall& call, absl::Time now);
  void Restore(const DaemonEntry& entry,
               absl::Time now);  // from the store: as if its heartbeat had just come

  // NOT_FOUND when the lease has run out, or never was: register again.
  absl::Status Heartbeat(const HeartbeatCall& call, absl::Time now);

  // Removes and returns the daemons whose lease ran out by `now`.
  std::vector<std::string> Expire(absl::Time now);

  const DaemonEntry* Find(
      const std::string& daemon) const;  // null: not there. Valid until the next call.
  std::vector<DaemonEntry> Entries(absl::Time now) const;

 private:
  struct Member {
    DaemonEntry entry;
    absl::Time heard;
  };
  const absl::Duration lease_;
  std::map<std::string, Member> members_;
};

}  // namespace muond
