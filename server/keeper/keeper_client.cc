#include "server/keeper/keeper_client.h"

#include <set>

#include "absl/strings/str_cat.h"

namespace muond {

absl::StatusOr<std::unique_ptr<KeeperClient>> KeeperClient::Create(UniqueFd socket) {
  std::unique_ptr<KeeperClient> client(new KeeperClient(std::move(socket)));
  for (;;) {
    auto received = client->channel_.Receive(-1);
    if (!received.ok()) return received.status();
    if (received->message.verb == KeeperVerb::kEnd) return client;
    if (received->message.verb != KeeperVerb::kSlab) {
      return absl::InternalError(absl::StrCat("the keeper sent ",
                                              std::string(NameOf(received->message.verb)),
                                              " before all kept slabs"));
    }
    client->kept_.push_back({ToSlabInfo(received->message), std::move(received->descriptor)});
  }
}

std::vector<uint64_t> KeeperClient::KeptJobs() const {
  std::set<uint64_t> jobs;
  for (const KeptSlab& slab : kept_) jobs.insert(slab.info.job);
  return {jobs.begin(), jobs.end()};
}

absl::Status KeeperClient::Keep(const SlabInfo& info, int descriptor) {
  return channel_.Send(ToMessage(KeeperVerb::kKeep, info), descriptor);
}

absl::Status KeeperClient::Drop(uint64_t slab) {
  KeeperMessage message;
  message.verb = KeeperVerb::kDrop;
  message.slab = slab;
  return channel_.Send(message, -1);
}

absl::Status KeeperClient::Grant(uint64_t session, uint64_t slab) {
  KeeperMessage message;
  message.verb = KeeperVerb::kGrant;
  message.session = session;
  message.slab = slab;
  return channel_.Send(message, -1);
}

absl::Status KeeperClient::Revoke(uint64_t session) {
  KeeperMessage message;
  message.verb = KeeperVerb::kRevoke;
  message.session = session;
  return channel_.Send(message, -1);
}

absl::Status KeeperClient::Ready() {
  KeeperMessage message;
  message.verb = KeeperVerb::kReady;
  return channel_.Send(message, -1);
}

absl::Status KeeperClient::Stop() {
  KeeperMessage message;
  message.verb = KeeperVerb::kStop;
  return channel_.Send(message, -1);
}

absl::StatusOr<std::vector<KeeperEvent>> KeeperClient::Poll() {
  std::vector<KeeperEvent> events;
  for (;;) {
    auto received = channel_.TryReceive();
    if (!received.ok()) return received.status();
    if (!received->has_value()) return events;
    const KeeperMessage& message = (*received)->message;
    if (message.verb == KeeperVerb::kRankGone) {
      events.push_back({KeeperEventKind::kRankGone, message.session});
    } else if (message.verb == KeeperVerb::kDrain) {
      events.push_back({KeeperEventKind::kDrain, 0});
    } else if (message.verb == KeeperVerb::kFinish) {
      events.push_back({KeeperEventKind::kFinish, 0});
    } else {
      return absl::InternalError(
          absl::StrCat("the keeper sent ", std::string(NameOf(message.verb)), " while serving"));
    }
  }
}

}  // namespace muond
