// Members: the daemons of a job whose ranks attach to several of them.
// Threads: plain values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/types/plan.h"

namespace muond {

struct JobMember {
  std::string daemon;         // its id
  std::string shard_address;  // where the others reach it
};

inline constexpr size_t kJobSecretBytes = 32;

// No members: a job of one daemon.
struct JobMembers {
  std::vector<JobMember>
      members;  // as the plan first names them, then by id; the first is the chief
  std::vector<int32_t> member_of_rank;  // index into members
  std::string secret;                   // kJobSecretBytes random bytes, of the members alone
};

// That counts and indexes fit `ranks` ranks; INVALID_ARGUMENT with the numbers.
absl::Status Validate(const JobMembers& members, size_t ranks);

// Puts the members into their order under `plan`; member_of_rank follows.
void SortMembers(const Plan& plan, JobMembers* members);

}  // namespace muond
