#include "server/coordinator/offer_board.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace muond {

void OfferBoard::Expire(absl::Time now) {
  for (auto job = waiting_.begin(); job != waiting_.end();) {
    std::erase_if(job->second,
                  [now](const auto& offer) { return now - offer.second.heard > kOfferSilence; });
    job = job->second.empty() ? waiting_.erase(job) : std::next(job);
  }
  std::erase_if(settled_, [now](const auto& entry) { return entry.second.until < now; });
}

OfferBoard::Offer* OfferBoard::Find(const OfferCall& call) {
  for (auto& [name, offers] : waiting_) {
    const auto mine = offers.find(call.daemon);
    if (mine != offers.end() && mine->second.id == call.offer) return &mine->second;
  }
  return nullptr;
}

absl::Status OfferBoard::Enter(const OfferCall& call, absl::Time now) {
  Offers& offers = waiting_[call.manifest->job];
  for (const auto& [daemon, other] : offers) {
    if (daemon == call.daemon) continue;
    if (std::string difference = FirstDifference(*other.manifest, *call.manifest);
        !difference.empty()) {
      const absl::Status refusal = absl::FailedPreconditionError(
          absl::StrFormat("the ranks of job '%s' at daemons %s and %s brought different manifests: "
                          "%s",
                          call.manifest->job, daemon, call.daemon, difference));
      for (const auto& [_, offer] : offers) settled_[offer.id] = {refusal, now + kAnswerKept};
      settled_[call.offer] = {refusal, now + kAnswerKept};
      waiting_.erase(call.manifest->job);
      return refusal;
    }
    for (const RankManifest& theirs : other.ranks) {
      for (const RankManifest& mine : call.ranks) {
        if (theirs.rank != mine.rank) continue;
        const absl::Status refusal = absl::AlreadyExistsError(
            absl::StrFormat("rank %d of job '%s' waits at daemon %s and at daemon %s", mine.rank,
                            call.manifest->job, daemon, call.daemon));
        settled_[call.offer] = {refusal, now + kAnswerKept};
        return refusal;
      }
    }
  }
  offers[call.daemon] = {call.offer, call.shard_address,
                         std::make_shared<const Manifest>(*call.manifest), call.ranks, now};
  return absl::OkStatus();
}

OfferBoard::Whole OfferBoard::MakeWhole(const Offers& offers) const {
  Whole whole;
  whole.manifest = offers.begin()->second.manifest;
  whole.ranks.resize(whole.manifest->world_size);
  whole.members.member_of_rank.resize(whole.manifest->world_size);
  for (const auto& [daemon, offer] : offers) {
    whole.offers.push_back(offer.id);
    for (const RankManifest& rank : offer.ranks) {
      whole.ranks[rank.rank] = rank;
      whole.members.member_of_rank[rank.rank] = static_cast<int32_t>(whole.members.members.size());
    }
    whole.members.members.push_back({daemon, offer.shard_address});
  }
  return whole;
}

OfferBoard::Answer OfferBoard::Take(const OfferCall& call, absl::Time now,
                                    std::optional<Whole>* whole) {
  Expire(now);
  if (const auto settled = settled_.find(call.offer); settled != settled_.end())
    return settled->second.answer;
  if (!call.manifest) {
    Offer* const known = Find(call);
    if (known == nullptr) {
      return absl::NotFoundError(
          absl::StrFormat("offer %016x is not known here: offer all of it again", call.offer));
    }
    known->heard = now;
    return nullptr;
  }
  if (absl::Status status = Enter(call, now); !status.ok()) return status;
  const auto job = waiting_.find(call.manifest->job);
  size_t ranks = 0;
  for (const auto& [daemon, offer] : job->second) ranks += offer.ranks.size();
  if (ranks < static_cast<size_t>(call.manifest->world_size)) return nullptr;
  *whole = MakeWhole(job->second);
  waiting_.erase(job);
  // Until Settle: being planned.
  for (uint64_t offer : (*whole)->offers) settled_[offer] = {nullptr, absl::InfiniteFuture()};
  return nullptr;
}

void OfferBoard::Settle(const Whole& whole, Answer answer, absl::Time now) {
  for (uint64_t offer : whole.offers) settled_[offer] = {answer, now + kAnswerKept};
}

}  // namespace muond
