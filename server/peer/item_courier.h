// ItemCourier: which new parameter is put to which member next. It knows what is there to send, what is on the way and what was
// acknowledged; it moves no bytes and reads no clock.
//
//   idle --Filled, LinkUp, deadline--> queued --Next--> putting --PutDone--> said --Acked--> idle
//
// At most kOnTheWayMax items are putting or said for one member at a time.
// Threads: the StepLoop.   Memory: a queue entry for each item and member; nothing is allocated once they have been full.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace muond {

class ItemCourier {
 public:
  static constexpr uint32_t kOnTheWayMax = 64;
  static constexpr absl::Duration kAnswerWithin = absl::Seconds(2);  // then it is put again

  struct Put {
    uint32_t member = 0, item = 0;
    uint64_t step = 0;
  };

  ItemCourier(uint32_t members, uint32_t self, uint32_t items);

  void LinkUp(uint32_t member);
  void LinkDown(uint32_t member);
  // This member's own item holds the parameter of `step`; everybody else is to have it.
  void Filled(uint32_t item, uint64_t step);
  void Acked(uint32_t member, uint32_t item, uint64_t step);
  // The next put to start; nullopt: nothing, or enough is on the way.
  std::optional<Put> Next(uint32_t member);
  // The put of the item to that member has ended. The step to announce; 0: nothing (it failed, or is queued again).
  uint64_t PutDone(uint32_t member, uint32_t item, bool arrived, absl::Time now);
  void Deadline(absl::Time now);  // what was said and not answered in time is queued again

  bool AllAcked(uint32_t member) const;
  uint32_t on_the_way(uint32_t member) const { return peers_[member].on_the_way; }

 private:
  enum class State : uint8_t { kIdle, kQueued, kPutting, kSaid };
  struct Entry {
    State state = State::kIdle;
    uint64_t put_step = 0, acked = 0;
    absl::Time said_at;
  };
  struct Peer {
    bool up = false;
    uint32_t on_the_way = 0;
    std::vector<Entry> entries;
    std::vector<uint32_t> ring;  // queued items; as large as there are items
    uint32_t head = 0, count = 0;
  };

  void Queue(Peer& peer, uint32_t item);

  uint32_t self_;
  std::vector<uint64_t> filled_;
  std::vector<Peer> peers_;
};

}  // namespace muond
