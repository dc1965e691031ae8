// ExchangeLayout: what lies where in a job's exchange slab, the kept host memory of each member into which the others put.
// Equal on every member, so that an offset means the same everywhere.
//
//   votes        for each member: its ranks' sheets, then its runs' measurements, in one piece: one put carries a vote
//   filled       Cell [items]: the step whose parameter an owner's own copy holds
//   parameters   for each item its dense parameter, as in a staged place
// Units: bytes; parts start at multiples of 64.   Threads: immutable after Lay.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/peer/member_view.h"

namespace muond {

struct ExchangeItem {
  uint32_t runs = 0;
  uint64_t parameter_bytes = 0;
};

class ExchangeLayout {
 public:
  struct Vote {
    uint64_t at = 0, bytes = 0;
    std::vector<uint32_t> ranks;  // rising
    std::vector<uint32_t> runs;   // of the member's items, counted over all items; rising
  };

  static ExchangeLayout Lay(const MemberView& view, uint64_t sheet_bytes,
                            uint64_t measurement_bytes, absl::Span<const ExchangeItem> items);

  uint64_t bytes() const { return bytes_; }
  const Vote& vote(uint32_t member) const { return votes_[member]; }
  uint64_t sheet(uint32_t rank) const { return sheets_[rank]; }
  uint64_t measurement(uint32_t run) const { return measurements_[run]; }
  uint64_t filled(uint32_t item) const { return filled_ + item * sizeof(uint64_t); }
  uint64_t parameter(uint32_t item) const { return parameters_[item]; }
  uint64_t parameter_bytes(uint32_t item) const { return parameter_bytes_[item]; }

 private:
  std::vector<Vote> votes_;
  std::vector<uint64_t> sheets_, measurements_, parameters_, parameter_bytes_;
  uint64_t filled_ = 0, bytes_ = 0;
};

}  // namespace muond
