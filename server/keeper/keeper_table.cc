#include "server/keeper/keeper_table.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace muond {

absl::Status KeeperTable::Keep(const SlabInfo& info) {
  if (info.slab == 0) return absl::InvalidArgumentError("slab 0 cannot be kept");
  if (slabs_.contains(info.slab)) {
    return absl::AlreadyExistsError(
        absl::StrCat("slab ", info.slab, " (", info.label, ") is kept already"));
  }
  if (slabs_.size() >= kSlabsKeptMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(slabs_.size(), " slabs are kept, no more are allowed"));
  }
  if (info.size_bytes > std::numeric_limits<uint64_t>::max() - total_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("slab of ", info.size_bytes, " bytes beside ",
                                                     total_bytes_, " kept bytes overflows"));
  }
  total_bytes_ += info.size_bytes;
  slabs_.emplace(info.slab, Kept{info, next_sequence_++});
  return absl::OkStatus();
}

absl::Status KeeperTable::Drop(uint64_t slab) {
  const auto found = slabs_.find(slab);
  if (found == slabs_.end())
    return absl::NotFoundError(absl::StrCat("slab ", slab, " is not kept"));
  total_bytes_ -= found->second.info.size_bytes;
  slabs_.erase(found);
  for (auto& [id, session] : sessions_) std::erase(session.slabs, slab);
  return absl::OkStatus();
}

absl::Status KeeperTable::Grant(uint64_t session, uint64_t slab) {
  if (session == 0) return absl::InvalidArgumentError("session 0 cannot be granted anything");
  if (!slabs_.contains(slab)) {
    return absl::NotFoundError(absl::StrCat("slab ", slab, " is granted but not kept"));
  }
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) {
    if (sessions_.size() >= kSessionsGrantedMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(sessions_.size(), " sessions have grants, no more are allowed"));
    }
    sessions_[session].slabs.push_back(slab);
    return absl::OkStatus();
  }
  std::vector<uint64_t>& granted = found->second.slabs;
  if (std::find(granted.begin(), granted.end(), slab) != granted.end()) return absl::OkStatus();
  if (granted.size() >= kGrantsPerSessionMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a session has ", granted.size(), " grants, no more are allowed"));
  }
  granted.push_back(slab);
  return absl::OkStatus();
}

bool KeeperTable::Revoke(uint64_t session) { return sessions_.erase(session) > 0; }

absl::StatusOr<std::vector<uint64_t>> KeeperTable::Fetch(uint64_t session) const {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return absl::PermissionDeniedError("no such session");
  return found->second.slabs;
}

void KeeperTable::Connected(uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  ++found->second.connections;
  found->second.gone = false;
}

bool KeeperTable::Disconnected(uint64_t session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end() || found->second.connections == 0) return false;
  if (--found->second.connections > 0) return false;
  found->second.gone = true;
  return true;
}

std::vector<uint64_t> KeeperTable::GoneSessions() const {
  std::vector<uint64_t> gone;
  for (const auto& [id, session] : sessions_) {
    if (session.gone) gone.push_back(id);
  }
  return gone;
}

const SlabInfo* KeeperTable::Find(uint64_t slab) const {
  const auto found = slabs_.find(slab);
  return found == slabs_.end() ? nullptr : &found->second.info;
}

std::vector<uint64_t> KeeperTable::SlabsInOrder() const {
  std::vector<std::pair<uint64_t, uint64_t>> order;
  order.reserve(slabs_.size());
  for (const auto& [id, kept] : slabs_) order.emplace_back(kept.sequence, id);
  std::sort(order.begin(), order.end());
  std::vector<uint64_t> ids;
  ids.reserve(order.size());
  for (const auto& [sequence, id] : order) ids.push_back(id);
  return ids;
}

}  // namespace muond
