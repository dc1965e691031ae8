// Jobs whose ranks wait at several daemons: what waits here is offered to the coordinator until the world is whole.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/daemon/step_loop_impl.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr absl::Duration kOfferAgain = absl::Milliseconds(100);

}  // namespace

void StepLoopImpl::OfferWaiting(absl::Time now) {
  const auto waiting = board_.Waiting();
  std::erase_if(offers_, [&](const auto& offer) {
    return std::none_of(waiting.begin(), waiting.end(),
                        [&](const auto& job) { return job.first == offer.first; });
  });
  for (const auto& [name, ranks] : waiting) {
    const CompleteJoin partial = board_.Partial(name);
    if (partial.adopt) continue;  // what is held is of this daemon alone
    Offering& offer = offers_[name];
    if (offer.id == 0) {
      offer.id = MintId();
      // What is left of an earlier job of several daemons cannot be adopted, and holds the name.
      if (Job* older = FindJob(name); older != nullptr && !older->alone())
        RemoveJob(*older, "a fresh job of its name begins");
      offer.again = now + kOfferAgain;  // most jobs are whole by then
    }
    if (offer.asked || now < offer.again) continue;
    OfferCall call;
    call.offer = offer.id;
    call.shard_address = options_.shards->address();
    if (offer.told != ranks.size()) {
      call.manifest = *partial.manifest;
      for (const auto& rank : partial.ranks) call.ranks.push_back(*rank);
      offer.told = ranks.size();
    }
    offer.asked = true;
    options_.plans->OfferRanks(
        std::move(call), [this, name = name, id = offer.id](absl::StatusOr<OfferReply> reply) {
          mailbox_->Post([this, name, id, reply = std::move(reply)]() mutable {
            OnOffered(name, id, std::move(reply));
          });
        });
  }
}

void StepLoopImpl::OnOffered(const std::string& name, uint64_t id,
                             absl::StatusOr<OfferReply> reply) {
  const auto offer = offers_.find(name);
  if (offer == offers_.end() || offer->second.id != id) return;
  offer->second.asked = false;
  offer->second.again = absl::Now() + kOfferAgain;
  if (absl::IsNotFound(reply.status()) || absl::IsUnavailable(reply.status())) {
    offer->second.told = 0;  // it may come back without what it knew
    return;
  }
  if (absl::IsUnimplemented(reply.status())) {
    offer->second.asked =
        true;  // never again: all ranks come here, or the deadline says who is missing
    return;
  }
  if (!reply.ok()) {
    const CompleteJoin partial = board_.Partial(name);
    offers_.erase(offer);
    for (const uint64_t ticket : partial.tickets) board_.Cancel(ticket);
    RefuseJob(partial, reply.status());
    return;
  }
  if (reply->complete) StartOffered(name, *std::move(reply));
}

void StepLoopImpl::StartOffered(const std::string& name, OfferReply reply) {
  offers_.erase(name);
  CompleteJoin partial = board_.Partial(name);
  if (partial.manifest == nullptr)
    return;  // all of them have gone: the others will miss this daemon
  Planning planning;
  planning.members = std::move(reply.members);
  planning.join.manifest = partial.manifest;
  planning.join.attempt = partial.attempt;
  planning.join.tickets.assign(reply.ranks.size(), 0);
  planning.join.seats.assign(reply.ranks.size(), 0);
  for (size_t i = 0; i < partial.tickets.size(); ++i) {
    board_.Cancel(partial.tickets[i]);
    const size_t rank = static_cast<size_t>(partial.ranks[i]->rank);
    if (rank >= planning.join.tickets.size()) continue;
    planning.join.tickets[rank] = partial.tickets[i];
    planning.join.seats[rank] = partial.seats[i];
  }
  for (RankManifest& rank : reply.ranks)
    planning.join.ranks.push_back(std::make_shared<const RankManifest>(std::move(rank)));
  if (Job* older = FindJob(name); older != nullptr)
    RemoveJob(*older, "a fresh job of its name begins");
  absl::StatusOr<Job*> job =
      StartJob(planning, {reply.job.job, reply.job.incarnation, std::move(reply.job.plan)});
  if (!job.ok()) {
    Log(Severity::kError, "job.not_started", {{"job", name}, {"status", job.status()}});
    options_.plans->EndJob(reply.job.job, std::string(job.status().message()));
  }
  AnswerJoins(planning, job);
}

}  // namespace muond
