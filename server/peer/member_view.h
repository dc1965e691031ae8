// MemberView: who of a job's daemons this one is, and what belongs to whom. A job of one daemon is `alone`.
// Threads: plain values.
#pragma once

#include <cstdint>
#include <vector>

namespace muond {

struct MemberView {
  uint32_t self = 0, count = 1;          // members are numbered as the plan first names them
  std::vector<uint32_t> member_of_rank;  // alone: empty
  std::vector<uint32_t> owner_of_item;   // alone: empty

  bool alone() const { return count == 1; }
  bool chief() const { return self == 0; }  // gives the verdicts
  bool local(uint32_t rank) const { return alone() || member_of_rank[rank] == self; }
  bool owns(uint32_t item) const { return alone() || owner_of_item[item] == self; }
};

}  // namespace muond
