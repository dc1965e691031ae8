#include "client/core/joining.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "proto/carrier/ipc/unix_socket.h"
#include "proto/stubs/daemon_stub.h"

namespace muond {
namespace {

// A stepper starts within a tenth of a second; one that dies often is started a second later.
constexpr absl::Duration kAgainFor = absl::Seconds(30);
constexpr absl::Duration kAgainAfter = absl::Milliseconds(20);

// Whether somebody holds the socket beside the daemon's own: its keeper, which outlives steppers.
bool KeeperLives(absl::string_view endpoint) {
  absl::ConsumePrefix(&endpoint, "unix:");
  const size_t slash = endpoint.rfind('/');
  if (slash == absl::string_view::npos || endpoint[0] != '/') return false;
  return ConnectSeqpacket(absl::StrCat(endpoint.substr(0, slash), "/keeper.sock")).ok();
}

uint64_t RandomSeat() {
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

}  // namespace

absl::StatusOr<Joined> JoinDaemon(const AttachOptions& options, const Manifest& manifest,
                                  const RankManifest& rank) {
  JoinCall join;
  join.manifest = manifest;
  join.rank = rank;
  join.resume = options.adopt ? Resume::kAdopt : Resume::kFresh;
  join.token = options.token;
  join.seat = RandomSeat();
  join.attempt = options.attempt;
  std::optional<JoinReply> joined;
  bool again = false;
  absl::Time end = absl::InfinitePast();
  // However slowly the daemon says that it cannot (its coordinator is away): this is the last time it is asked.
  const absl::Time last = absl::Now() + options.join_timeout + kAgainFor;
  for (;; again = true) {
    const absl::Time asked = absl::Now();
    absl::StatusOr<std::unique_ptr<DaemonStub>> stub = DaemonStub::Create(options.endpoint);
    if (!stub.ok()) return stub.status();
    absl::Status status;
    if (!joined.has_value()) {
      absl::StatusOr<JoinReply> reply = (*stub)->Join(join, options.join_timeout);
      status = reply.status();
      if (reply.ok()) joined = *std::move(reply);
    }
    if (joined.has_value()) {
      absl::StatusOr<AttachReply> layout = (*stub)->Attach(joined->session, options.join_timeout);
      if (layout.ok()) return Joined{*std::move(joined), *std::move(layout)};
      status = layout.status();
    }
    const bool forgotten = again && joined.has_value() && absl::IsNotFound(status);
    if (forgotten) joined.reset();
    if (!forgotten && !absl::IsUnavailable(status)) return status;
    // A call that was waiting for other ranks has seen no restart before this one.
    const absl::Time now = absl::Now();
    if (!again || now - asked > kAgainFor) end = now + kAgainFor;
    if (now >= std::min(end, last) || !KeeperLives(options.endpoint)) return status;
    absl::SleepFor(kAgainAfter);
  }
}

}  // namespace muond
