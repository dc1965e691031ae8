#include "server/daemon/job_links.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr absl::Duration kConnectAgain = absl::Milliseconds(200);
constexpr absl::Duration kTellAgain = absl::Milliseconds(500);
constexpr absl::Duration kFirstLinkWithin = absl::Minutes(3);

}  // namespace

JobLinks* LinkTable::Find(const CarrierEvent& event) const {
  if (event.kind == CarrierEventKind::kPeerUp) {
    const auto tag = tags.find(event.token);
    return tag == tags.end() ? nullptr : tag->second;
  }
  const auto peer = peers.find(event.peer);
  return peer == peers.end() ? nullptr : peer->second;
}

JobLinks::JobLinks(JobLinksOptions options)
    : options_(std::move(options)), carrier_(*options_.table->carrier) {
  links_.resize(options_.members.members.size());
}

absl::StatusOr<std::unique_ptr<JobLinks>> JobLinks::Open(JobLinksOptions options) {
  if (options.table == nullptr || options.table->carrier == nullptr) {
    return absl::FailedPreconditionError(
        "a job of several daemons, and this one listens for no others (shard_listen)");
  }
  std::unique_ptr<JobLinks> links(new JobLinks(std::move(options)));
  auto region = links->carrier_.Register(links->options_.exchange, links->options_.exchange_bytes);
  if (!region.ok()) return region.status();
  links->region_ = *std::move(region);
  const absl::Time now = absl::Now();
  for (uint32_t member = 0; member < links->count(); ++member) {
    links->links_[member].down_since = now;
    if (member > links->self()) links->Admit(member);
    if (member < links->self()) links->Connect(member, now);
  }
  return links;
}

JobLinks::~JobLinks() {
  for (uint32_t member = 0; member < count(); ++member) {
    Link& link = links_[member];
    if (link.peer != kNoPeer) {
      options_.table->peers.erase(link.peer);
      carrier_.Sever(link.peer);
    }
    if (link.tag == 0) continue;
    options_.table->tags.erase(link.tag);
    carrier_.Withdraw(KeyOf(self(), member));
  }
  if (region_.id == 0) return;
  const absl::Status status = carrier_.Unregister(region_.id);
  if (!status.ok()) Log(Severity::kWarning, "link.unregister_failed", {{"error", status}});
}

AdmissionKey JobLinks::KeyOf(uint32_t acceptor, uint32_t connector) const {
  AdmissionKey key;
  std::memcpy(key.data(), options_.members.secret.data(), key.size());
  const uint16_t numbers[] = {static_cast<uint16_t>(acceptor), static_cast<uint16_t>(connector)};
  for (size_t i = 0; i < sizeof numbers; ++i)
    key[key.size() - sizeof numbers + i] ^= reinterpret_cast<const std::byte*>(numbers)[i];
  return key;
}

void JobLinks::Admit(uint32_t member) {
  Link& link = links_[member];
  if (link.tag == 0) {
    link.tag = options_.table->next_tag++;
    options_.table->tags[link.tag] = this;
  }
  const absl::Status status = carrier_.Admit(KeyOf(self(), member), link.tag);
  if (!status.ok() && !absl::IsAlreadyExists(status))
    Log(Severity::kError, "link.admit_failed", {{"error", status}});
}

void JobLinks::Connect(uint32_t member, absl::Time now) {
  links_[member].try_at = now + kConnectAgain;
  const auto peer =
      carrier_.Connect(options_.members.members[member].shard_address, KeyOf(member, self()));
  if (!peer.ok()) {
    Log(Severity::kError, "link.connect_failed",
        {{"member", NameOf(member)}, {"error", peer.status()}});
    return;
  }
  Begin(member, *peer, now);
}

void JobLinks::Begin(uint32_t member, PeerId peer, absl::Time now) {
  Link& link = links_[member];
  link.peer = peer;
  link.told = false;
  link.key.Clear();
  options_.table->peers[peer] = this;
  TellKey(member, now);
}

void JobLinks::Lose(uint32_t member, absl::Time now) {
  Link& link = links_[member];
  options_.table->peers.erase(link.peer);
  link.peer = kNoPeer;
  link.try_at = now + kConnectAgain;
  if (link.remote == 0) return;
  link.remote = 0;
  link.down_since = now;
  Log(Severity::kWarning, "link.down",
      {{"job_id", options_.frame.job}, {"member", NameOf(member)}});
  options_.owner->LinkIsDown(member);
}

void JobLinks::TellKey(uint32_t member, absl::Time now) {
  links_[member].tell_at = now + kTellAgain;
  Frame frame;
  frame.type = FrameType::kLink;
  frame.bucket = static_cast<uint32_t>(region_.key.size());
  for (uint32_t part = 0; part < KeyPartCount(region_.key); ++part) {
    frame.attempt = part;
    frame.value = KeyPart(region_.key, part);
    Send(member, frame);
  }
}

void JobLinks::OnEvent(const CarrierEvent& event) {
  const absl::Time now = absl::Now();
  if (event.kind == CarrierEventKind::kPeerUp) {
    for (uint32_t member = 0; member < count(); ++member) {
      if (links_[member].tag != event.token) continue;
      if (links_[member].peer != kNoPeer) {
        carrier_.Sever(links_[member].peer);
        Lose(member, now);
      }
      Begin(member, event.peer, now);
      Admit(member);
    }
    return;
  }
  const auto link = std::find_if(links_.begin(), links_.end(),
                                 [&](const Link& l) { return l.peer == event.peer; });
  if (link == links_.end()) return;
  const uint32_t member = static_cast<uint32_t>(link - links_.begin());
  switch (event.kind) {
    case CarrierEventKind::kFrame:
      OnFrame(member, event.frame, now);
      break;
    case CarrierEventKind::kPutDone:
      options_.owner->PutDone(member, event.token, event.status.ok());
      break;
    case CarrierEventKind::kPeerGone:
      Lose(member, now);
      break;
    case CarrierEventKind::kBadMessage:
      Log(Severity::kWarning, "frame.refused",
          {{"member", NameOf(member)}, {"status", event.status}});
      break;
    case CarrierEventKind::kPeerUp:
      break;
  }
}

void JobLinks::OnFrame(uint32_t member, const Frame& frame, absl::Time now) {
  const Frame& mine = options_.frame;
  if (frame.job != mine.job || frame.incarnation != mine.incarnation || frame.epoch != mine.epoch)
    return;
  Link& link = links_[member];
  if (frame.type == FrameType::kLinked) {
    link.told = true;
    return;
  }
  if (frame.type != FrameType::kLink) {
    options_.owner->FrameCame(member, frame);
    return;
  }
  if (link.remote == 0) {
    if (!link.key.Add(frame.bucket, frame.attempt, frame.value)) return;
    const auto remote = carrier_.ImportRegion(link.peer, link.key.key());
    if (!remote.ok()) {
      Log(Severity::kError, "link.import_failed",
          {{"member", NameOf(member)}, {"error", remote.status()}});
      carrier_.Sever(link.peer);
      Lose(member, now);
      return;
    }
    link.remote = *remote;
    link.seen = true;
    Log(Severity::kInfo, "link.up",
        {{"job_id", mine.job}, {"member", NameOf(member)}, {"path", carrier_.path()}});
    Frame linked;
    linked.type = FrameType::kLinked;
    Send(member, linked);
    options_.owner->LinkIsUp(member);
  } else if (frame.attempt == 0) {
    // It was said again: our answer was lost.
    Frame linked;
    linked.type = FrameType::kLinked;
    Send(member, linked);
  }
}

absl::Duration JobLinks::patience(uint32_t member) const {
  const absl::Duration patience = options_.table->peer_timeout;
  return links_[member].seen ? patience : std::max(patience, kFirstLinkWithin);
}

void JobLinks::Tick(absl::Time now) {
  for (uint32_t member = 0; member < count(); ++member) {
    Link& link = links_[member];
    if (member == self()) continue;
    if (link.peer == kNoPeer) {
      if (member < self() && now >= link.try_at) Connect(member, now);
    } else if (!link.told && now >= link.tell_at) {
      TellKey(member, now);
    }
  }
}

void JobLinks::Send(uint32_t member, const Frame& frame) {
  if (links_[member].peer == kNoPeer) return;
  Frame sent = frame;
  sent.job = options_.frame.job;
  sent.incarnation = options_.frame.incarnation;
  sent.epoch = options_.frame.epoch;
  sent.rank = self();
  // One that is gone says so by kPeerGone.
  (void)carrier_.Send(links_[member].peer, sent);
}

bool JobLinks::Put(uint32_t member, uint64_t at, uint64_t bytes, uint64_t token) {
  const Link& link = links_[member];
  if (link.remote == 0 || bytes == 0) return false;
  PutRequest put;
  put.peer = link.peer;
  put.region = link.remote;
  put.offset = at;
  put.data = options_.exchange + at;
  put.size_bytes = bytes;
  put.token = token;
  const absl::Status status = carrier_.Put(put);
  if (!status.ok())
    Log(Severity::kWarning, "link.put_refused", {{"member", NameOf(member)}, {"error", status}});
  return status.ok();
}

}  // namespace muond
