#include "server/peer/exchange_layout.h"

namespace muond {
namespace {

uint64_t Align(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

ExchangeLayout ExchangeLayout::Lay(const MemberView& view, uint64_t sheet_bytes,
                                   uint64_t measurement_bytes,
                                   absl::Span<const ExchangeItem> items) {
  ExchangeLayout layout;
  layout.votes_.resize(view.count);
  for (uint32_t rank = 0; rank < view.member_of_rank.size(); ++rank)
    layout.votes_[view.member_of_rank[rank]].ranks.push_back(rank);
  uint32_t runs = 0;
  for (uint32_t item = 0; item < items.size(); ++item) {
    for (uint32_t i = 0; i < items[item].runs; ++i)
      layout.votes_[view.owner_of_item[item]].runs.push_back(runs++);
  }
  layout.sheets_.resize(view.member_of_rank.size());
  layout.measurements_.resize(runs);
  uint64_t at = 0;
  for (Vote& vote : layout.votes_) {
    vote.at = at;
    for (const uint32_t rank : vote.ranks) {
      layout.sheets_[rank] = at;
      at += sheet_bytes;
    }
    for (const uint32_t run : vote.runs) {
      layout.measurements_[run] = at;
      at += measurement_bytes;
    }
    vote.bytes = at - vote.at;
    at = Align(at);
  }
  layout.filled_ = at;
  at = Align(at + items.size() * sizeof(uint64_t));
  for (const ExchangeItem& item : items) {
    layout.parameters_.push_back(at);
    layout.parameter_bytes_.push_back(item.parameter_bytes);
    at = Align(at + item.parameter_bytes);
  }
  layout.bytes_ = at;
  return layout;
}

}  // namespace muond
