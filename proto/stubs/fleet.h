// Fleet: the calls of one generated service at whichever of several endpoints answers. Only the stubs include this.
// One endpoint: a call is made once, as Caller makes it. Several: the one that answered last is asked first; where it is away,
// stands by (UNAVAILABLE) or is silent for too long, the next, round and round.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/stubs/caller.h"
#include "proto/stubs/endpoint.h"

namespace muond {

template <typename Service>
struct Fleet {
  Peer peer;  // of the first; its endpoint is the whole list
  std::vector<std::unique_ptr<Caller<Service>>> callers;
  std::atomic<size_t> at{0};  // who answered last

  static constexpr absl::Duration kConnectWithin = absl::Milliseconds(300);
  // Of a call that only looks something up: a member that was stopped is left for the next after that.
  static constexpr absl::Duration kSilentFor = absl::Seconds(2);
  static constexpr absl::Duration kBetweenRounds = absl::Milliseconds(50);

  // `endpoints`: with commas between. INVALID_ARGUMENT for one that is none.
  absl::Status Open(std::string_view endpoints, const std::string& noun,
                    const StubOptions& options) {
    StubOptions each = options;
    each.keep_alive = endpoints.find(',') != std::string_view::npos;
    const absl::StatusOr<std::vector<std::string>> list = SplitEndpoints(endpoints);
    if (!list.ok()) return list.status();
    for (const std::string& endpoint : *list) {
      auto caller = std::make_unique<Caller<Service>>();
      const absl::Status status = caller->Open(endpoint, noun, each);
      if (!status.ok()) return status;
      callers.push_back(std::move(caller));
    }
    peer = callers.front()->peer;
    peer.endpoint.clear();
    for (const auto& caller : callers)
      absl::StrAppend(&peer.endpoint, peer.endpoint.empty() ? "" : ",", caller->peer.endpoint);
    return absl::OkStatus();
  }

  const std::string& answering() const { return callers[at.load()]->peer.endpoint; }

  template <typename Request, typename Response, typename Method>
  absl::Status Call(Method method, const Request& request, Response* response,
                    absl::Duration timeout) {
    if (callers.size() == 1) return callers[0]->Call(method, request, response, timeout);
    const absl::Duration whole = timeout == absl::ZeroDuration() ? peer.options.timeout : timeout;
    const absl::Time end = absl::Now() + whole;
    // Who takes the call is found within the options' time, however long the call itself may then last.
    const absl::Time found_by = absl::Now() + std::min(whole, peer.options.timeout);
    // What may plan for long is given its time; a member that was stopped is found by the connection's own pings.
    const absl::Duration each = whole > peer.options.timeout ? whole : kSilentFor;
    absl::Status status;
    for (size_t tried = 0; tried == 0 || absl::Now() < found_by; ++tried) {
      if (tried > 0 && tried % callers.size() == 0) absl::SleepFor(kBetweenRounds);
      const size_t now = at.load();
      Caller<Service>& caller = *callers[now];
      const absl::Duration left = std::max(end - absl::Now(), absl::Milliseconds(1));
      const auto connect_until = std::chrono::system_clock::now() +
                                 absl::ToChronoMilliseconds(std::min(left, kConnectWithin));
      if (caller.peer.channel->WaitForConnected(connect_until)) {
        response->Clear();
        status = caller.Call(method, request, response, std::min(left, each));
        if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) return status;
      } else if (status.ok()) {
        status = absl::UnavailableError(
            absl::StrCat(peer.noun, " at ", caller.peer.endpoint, " cannot be reached"));
      }
      size_t expected = now;
      at.compare_exchange_strong(expected, (now + 1) % callers.size());
    }
    return absl::UnavailableError(absl::StrCat(peer.noun, " answers at none of ", peer.endpoint,
                                               ": ", std::string(status.message())));
  }

  absl::Status CheckPeer(const ProtocolVersion& theirs) const {
    return CheckVersion(theirs, peer.noun + " at " + answering(), peer.options.version);
  }
};

}  // namespace muond
