// What a test of anything over a Carrier does all the time: wait for events, drain them, make a frame.
#pragma once

#include <poll.h>

#include <vector>

#include "proto/carrier/carrier.h"

namespace muond {

inline bool Readable(const Carrier& carrier, int timeout_ms) {
  pollfd entry{carrier.event_descriptor(), POLLIN, 0};
  return ::poll(&entry, 1, timeout_ms) > 0;
}

// Polls until `count` events have come, or five seconds have passed without any.
inline std::vector<CarrierEvent> TakeEvents(Carrier& carrier, size_t count) {
  std::vector<CarrierEvent> events;
  while (events.size() < count && Readable(carrier, 5000)) carrier.Poll(&events);
  return events;
}

// Everything that is there now.
inline std::vector<CarrierEvent> Drain(Carrier& carrier) {
  std::vector<CarrierEvent> events;
  while (Readable(carrier, 0)) {
    const size_t before = events.size();
    carrier.Poll(&events);
    if (events.size() == before) break;
  }
  return events;
}

// Whether a carrier that has nothing to do stops being readable: an owner that polls it may sleep. A carrier may have
// something of its own to see to first, but makes no events of it.
inline bool GoesQuiet(Carrier& carrier) {
  for (int i = 0; i < 500; ++i) {
    if (!Readable(carrier, 10)) return true;
    std::vector<CarrierEvent> events;
    carrier.Poll(&events);
    if (!events.empty()) return false;
  }
  return false;
}

inline Frame PingFrame(uint64_t cookie) {
  Frame frame;
  frame.type = FrameType::kPing;
  frame.job = 7;
  frame.session = 9;
  frame.step = cookie;
  frame.value = cookie;
  return frame;
}

}  // namespace muond
