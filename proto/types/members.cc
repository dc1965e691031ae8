#include "proto/types/members.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {

absl::Status Validate(const JobMembers& members, size_t ranks) {
  if (members.members.empty() && members.member_of_rank.empty()) return absl::OkStatus();
  if (members.members.size() > static_cast<size_t>(kDaemonsMax) ||
      members.member_of_rank.size() != ranks || members.secret.size() != kJobSecretBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "members: %d daemons (at most %d), %d of %d ranks, a secret of %d bytes (not %d)",
        members.members.size(), kDaemonsMax, members.member_of_rank.size(), ranks,
        members.secret.size(), kJobSecretBytes));
  }
  for (size_t rank = 0; rank < ranks; ++rank) {
    const int32_t member = members.member_of_rank[rank];
    if (member >= 0 && static_cast<size_t>(member) < members.members.size()) continue;
    return absl::InvalidArgumentError(absl::StrFormat("members: rank %d is at member %d of %d",
                                                      rank, member, members.members.size()));
  }
  return absl::OkStatus();
}

void SortMembers(const Plan& plan, JobMembers* members) {
  const size_t count = members->members.size();
  const auto first_item = [&](size_t member) {
    size_t item = 0;
    while (item < plan.items.size() &&
           plan.devices[plan.items[item].owner].daemon != members->members[member].daemon) {
      ++item;
    }
    return item;
  };
  std::vector<size_t> first(count), order(count);
  for (size_t member = 0; member < count; ++member) first[member] = first_item(member);
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (first[a] != first[b]) return first[a] < first[b];
    return members->members[a].daemon < members->members[b].daemon;
  });
  std::vector<JobMember> sorted(count);
  std::vector<int32_t> place(count);
  for (size_t i = 0; i < count; ++i) {
    sorted[i] = members->members[order[i]];
    place[order[i]] = static_cast<int32_t>(i);
  }
  members->members = std::move(sorted);
  for (int32_t& member : members->member_of_rank) member = place[member];
}

}  // namespace muond
