#include "proto/carrier/ipc/slab_fetch.h"

#include <poll.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/unix_socket.h"

namespace muond {

absl::StatusOr<std::unique_ptr<SlabFetch>> SlabFetch::Open(const std::string& keeper_socket,
                                                           uint64_t session, int timeout_ms) {
  auto socket = ConnectSeqpacket(keeper_socket);
  if (!socket.ok()) return socket.status();
  std::unique_ptr<SlabFetch> fetch(new SlabFetch(DescriptorChannel(*std::move(socket))));
  KeeperMessage ask;
  ask.verb = KeeperVerb::kFetch;
  ask.session = session;
  if (auto status = fetch->channel_.Send(ask, -1); !status.ok()) return status;
  for (;;) {
    auto received = fetch->channel_.Receive(timeout_ms);
    if (!received.ok()) return received.status();
    switch (received->message.verb) {
      case KeeperVerb::kSlab:
        fetch->slabs_.push_back(*std::move(received));
        break;
      case KeeperVerb::kEnd:
        return fetch;
      case KeeperVerb::kDenied:
        return absl::PermissionDeniedError("the keeper knows no such session, or another user's");
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("the keeper answered a fetch with verb ",
                         static_cast<uint32_t>(received->message.verb)));
    }
  }
}

bool SlabFetch::keeper_gone() const {
  pollfd entry{channel_.socket(), POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0 && (entry.revents & (POLLHUP | POLLERR));
}

}  // namespace muond
