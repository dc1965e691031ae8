#include <string>
#include <utility>

#include "muond/v1/coordinator.pb.h"
#include "proto/types/convert.h"
#include "proto/types/convert_internal.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

using convert::CheckCount;

template <typename Messages>
absl::Status RanksFrom(const Messages& messages, std::vector<RankManifest>* ranks) {
  if (absl::Status status = CheckCount("offer: ranks", messages.size(), kRanksMax); !status.ok())
    return status;
  for (const v1::RankManifest& message : messages) {
    absl::StatusOr<RankManifest> rank = FromProto(message);
    if (!rank.ok()) return rank.status();
    ranks->push_back(*std::move(rank));
  }
  return absl::OkStatus();
}

absl::Status CheckText(const char* what, const std::string& text) {
  return CheckCount(what, static_cast<int64_t>(text.size()), kTextBytesMax);
}

}  // namespace

void ToProto(const OfferCall& value, v1::OfferRanksRequest* message) {
  message->set_daemon(value.daemon);
  message->set_offer(value.offer);
  message->set_shard_address(value.shard_address);
  if (!value.manifest) return;
  ToProto(*value.manifest, message->mutable_manifest());
  for (const RankManifest& rank : value.ranks) ToProto(rank, message->add_ranks());
}

absl::StatusOr<OfferCall> FromProto(const v1::OfferRanksRequest& message) {
  OfferCall value;
  for (absl::Status status : {CheckText("offer: bytes of the daemon's id", message.daemon()),
                              CheckText("offer: bytes of the address", message.shard_address())}) {
    if (!status.ok()) return status;
  }
  value.daemon = message.daemon();
  value.offer = message.offer();
  value.shard_address = message.shard_address();
  if (!message.has_manifest()) return value;
  absl::StatusOr<Manifest> manifest = FromProto(message.manifest());
  if (!manifest.ok()) return manifest.status();
  if (absl::Status status = RanksFrom(message.ranks(), &value.ranks); !status.ok()) return status;
  for (const RankManifest& rank : value.ranks) {
    if (absl::Status status = Validate(*manifest, rank); !status.ok()) return status;
  }
  value.manifest = *std::move(manifest);
  return value;
}

void ToProto(const OfferReply& value, v1::OfferRanksResponse* message) {
  message->set_complete(value.complete);
  if (!value.complete) return;
  message->set_job_id(value.job.job);
  message->set_incarnation(value.job.incarnation);
  ToProto(value.job.plan, message->mutable_plan());
  for (const RankManifest& rank : value.ranks) ToProto(rank, message->add_ranks());
  for (const JobMember& member : value.members.members) {
    v1::JobMember* const out = message->add_members();
    out->set_daemon(member.daemon);
    out->set_shard_address(member.shard_address);
  }
  for (int32_t member : value.members.member_of_rank) message->add_member_of_rank(member);
  message->set_secret(value.members.secret);
}

absl::StatusOr<OfferReply> FromProto(const v1::OfferRanksResponse& message) {
  OfferReply value;
  value.complete = message.complete();
  if (!value.complete) return value;
  value.job.job = message.job_id();
  value.job.incarnation = message.incarnation();
  absl::StatusOr<Plan> plan = FromProto(message.plan());
  if (!plan.ok()) return plan.status();
  value.job.plan = *std::move(plan);
  for (absl::Status status :
       {RanksFrom(message.ranks(), &value.ranks),
        CheckCount("offer: members", message.members_size(), kDaemonsMax),
        CheckCount("offer: ranks of members", message.member_of_rank_size(), kRanksMax),
        CheckText("offer: bytes of the secret", message.secret())}) {
    if (!status.ok()) return status;
  }
  for (const v1::JobMember& member : message.members()) {
    for (absl::Status status :
         {CheckText("member: bytes of its id", member.daemon()),
          CheckText("member: bytes of its address", member.shard_address())}) {
      if (!status.ok()) return status;
    }
    value.members.members.push_back({member.daemon(), member.shard_address()});
  }
  value.members.member_of_rank.assign(message.member_of_rank().begin(),
                                      message.member_of_rank().end());
  value.members.secret = message.secret();
  if (absl::Status status = Validate(value.members, value.ranks.size()); !status.ok())
    return status;
  return value;
}

}  // namespace muond
