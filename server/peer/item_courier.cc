#include "server/peer/item_courier.h"

#include <algorithm>

namespace muond {

ItemCourier::ItemCourier(uint32_t members, uint32_t self, uint32_t items)
    : self_(self), filled_(items, 0), peers_(members) {
  for (Peer& peer : peers_) {
    peer.entries.resize(items);
    peer.ring.resize(items);
  }
}

void ItemCourier::Queue(Peer& peer, uint32_t item) {
  Entry& entry = peer.entries[item];
  entry.state = State::kIdle;
  if (!peer.up || entry.acked >= filled_[item]) return;
  entry.state = State::kQueued;
  peer.ring[(peer.head + peer.count++) % peer.ring.size()] = item;
}

void ItemCourier::LinkUp(uint32_t member) {
  Peer& peer = peers_[member];
  if (member == self_ || peer.up) return;
  peer.up = true;
  for (uint32_t item = 0; item < filled_.size(); ++item) Queue(peer, item);
}

void ItemCourier::LinkDown(uint32_t member) {
  Peer& peer = peers_[member];
  peer.up = false;
  peer.on_the_way = peer.head = peer.count = 0;
  for (Entry& entry : peer.entries) entry.state = State::kIdle;
}

void ItemCourier::Filled(uint32_t item, uint64_t step) {
  filled_[item] = std::max(filled_[item], step);
  for (uint32_t member = 0; member < peers_.size(); ++member) {
    Peer& peer = peers_[member];
    if (member == self_) continue;
    // What is said and not acknowledged is of an older step: a member that takes part in this one has it.
    if (peer.entries[item].state == State::kSaid) --peer.on_the_way;
    if (peer.entries[item].state == State::kSaid || peer.entries[item].state == State::kIdle)
      Queue(peer, item);
  }
}

void ItemCourier::Acked(uint32_t member, uint32_t item, uint64_t step) {
  Peer& peer = peers_[member];
  Entry& entry = peer.entries[item];
  entry.acked = std::max(entry.acked, step);
  if (entry.state != State::kSaid || step < entry.put_step) return;
  --peer.on_the_way;
  Queue(peer, item);
}

std::optional<ItemCourier::Put> ItemCourier::Next(uint32_t member) {
  Peer& peer = peers_[member];
  while (peer.up && peer.count > 0 && peer.on_the_way < kOnTheWayMax) {
    const uint32_t item = peer.ring[peer.head];
    peer.head = (peer.head + 1) % static_cast<uint32_t>(peer.ring.size());
    --peer.count;
    Entry& entry = peer.entries[item];
    entry.state = State::kIdle;
    if (entry.acked >= filled_[item]) continue;
    entry.state = State::kPutting;
    entry.put_step = filled_[item];
    ++peer.on_the_way;
    return Put{member, item, entry.put_step};
  }
  return std::nullopt;
}

uint64_t ItemCourier::PutDone(uint32_t member, uint32_t item, bool arrived, absl::Time now) {
  Peer& peer = peers_[member];
  Entry& entry = peer.entries[item];
  if (entry.state != State::kPutting) return 0;
  entry.state = State::kSaid;
  entry.said_at = now;
  if (arrived && entry.put_step == filled_[item]) return entry.put_step;
  // One that failed waits for its deadline. One that a newer step overtook is put again.
  if (arrived) {
    --peer.on_the_way;
    Queue(peer, item);
  }
  return 0;
}

void ItemCourier::Deadline(absl::Time now) {
  for (Peer& peer : peers_) {
    if (!peer.up || peer.on_the_way == 0) continue;
    for (uint32_t item = 0; item < peer.entries.size(); ++item) {
      Entry& entry = peer.entries[item];
      if (entry.state != State::kSaid || now - entry.said_at < kAnswerWithin) continue;
      --peer.on_the_way;
      Queue(peer, item);
    }
  }
}

bool ItemCourier::AllAcked(uint32_t member) const {
  for (uint32_t item = 0; item < filled_.size(); ++item) {
    if (peers_[member].entries[item].acked < filled_[item]) return false;
  }
  return true;
}

}  // namespace muond
