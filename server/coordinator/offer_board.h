// OfferBoard: ranks of one job that wait at several daemons, until the whole world waits somewhere.
//
// A daemon offers the ranks that wait at it, and says so again while they wait; an offer that is silent for kOfferSilence is
// gone. A manifest that differs refuses everybody who waits for that name; a rank that waits twice refuses the newcomer.
// Decides only: `now` is an argument. Nothing is kept beyond the process: daemons offer again.
// Threads: one at a time.   Errors: in the answers, with names and numbers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/types/coordinator_calls.h"

namespace muond {

inline constexpr absl::Duration kOfferSilence = absl::Seconds(5);
inline constexpr absl::Duration kAnswerKept = absl::Minutes(1);  // for daemons that ask once more

class OfferBoard {
 public:
  // All ranks of a job, by rank, and where they wait. Settle() answers the offers.
  struct Whole {
    std::vector<uint64_t> offers;
    std::shared_ptr<const Manifest> manifest;
    std::vector<RankManifest> ranks;
    JobMembers members;  // in no order yet, without a secret
  };
  using Answer = absl::StatusOr<std::shared_ptr<const OfferReply>>;

  // The answer that the offer has; null: none yet. When this call makes a job whole, `whole` is set, once.
  // NOT_FOUND: a call without a manifest under an unknown offer.
  Answer Take(const OfferCall& call, absl::Time now, std::optional<Whole>* whole);
  void Settle(const Whole& whole, Answer answer, absl::Time now);

 private:
  struct Offer {
    uint64_t id = 0;
    std::string shard_address;
    std::shared_ptr<const Manifest> manifest;
    std::vector<RankManifest> ranks;
    absl::Time heard;
  };
  using Offers = std::map<std::string, Offer>;  // by daemon
  struct Settled {
    Answer answer;
    absl::Time until;
  };

  void Expire(absl::Time now);
  Offer* Find(const OfferCall& call);
  absl::Status Enter(const OfferCall& call, absl::Time now);
  Whole MakeWhole(const Offers& offers) const;

  std::map<std::string, Offers> waiting_;  // by the job's name
  std::map<uint64_t, Settled> settled_;    // null: being planned
};

}  // namespace muond
