#include "server/coordinator/membership.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace muond {

bool SameDevices(const std::vector<DeviceSpec>& a, const std::vector<DeviceSpec>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const DeviceSpec& x, const DeviceSpec& y) {
                      return x.ordinal == y.ordinal && x.uuid == y.uuid &&
                             x.architecture == y.architecture && x.memory_bytes == y.memory_bytes;
                    });
}

bool Membership::Enter(const std::string& daemon, const RegisterCall& call, absl::Time now) {
  const auto known = members_.find(daemon);
  const bool other =
      known == members_.end() || !SameDevices(known->second.entry.devices, call.devices);
  Member& member = members_[daemon];
  member.entry = {daemon, call.endpoint, call.version.build, call.devices, 0, false};
  for (DeviceSpec& device : member.entry.devices) device.daemon = daemon;
  member.heard = now;
  return other;
}

void Membership::Restore(const DaemonEntry& entry, absl::Time now) {
  Member& member = members_[entry.daemon] = {entry, now};
  for (DeviceSpec& device : member.entry.devices) device.daemon = entry.daemon;
}

absl::Status Membership::Heartbeat(const HeartbeatCall& call, absl::Time now) {
  const auto at = members_.find(call.daemon);
  if (at == members_.end() || now - at->second.heard > lease_) {
    return absl::NotFoundError(
        absl::StrFormat("daemon '%s' has no lease (they last %s): register again",
                        call.daemon.substr(0, 64), absl::FormatDuration(lease_)));
  }
  Member& member = at->second;
  member.heard = now;
  member.entry.draining = call.draining;
  // Free bytes only: another set of devices needs a new registration.
  for (const DeviceSpec& device : call.devices) {
    for (DeviceSpec& mine : member.entry.devices) {
      if (mine.ordinal == device.ordinal)
        mine.memory_free_bytes = std::min(device.memory_free_bytes, mine.memory_bytes);
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> Membership::Expire(absl::Time now) {
  std::vector<std::string> gone;
  for (auto at = members_.begin(); at != members_.end();) {
    if (now - at->second.heard > lease_) {
      gone.push_back(at->first);
      at = members_.erase(at);
    } else {
      ++at;
    }
  }
  return gone;
}

const DaemonEntry* Membership::Find(const std::string& daemon) const {
  const auto at = members_.find(daemon);
  return at == members_.end() ? nullptr : &at->second.entry;
}

std::vector<DaemonEntry> Membership::Entries(absl::Time now) const {
  std::vector<DaemonEntry> entries;
  for (const auto& [daemon, member] : members_) {
    entries.push_back(member.entry);
    entries.back().heartbeat_age_ms =
        static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(now - member.heard)));
  }
  return entries;
}

}  // namespace muond
