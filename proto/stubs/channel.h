// A gRPC channel with this project's settings, and one call's context. Only the stubs include this.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/stub_options.h"

namespace grpc {
class Channel;
class ClientContext;
class Status;
}  // namespace grpc

namespace muond {

struct Peer {
  std::string endpoint;  // canonical
  std::string noun;      // "the daemon"
  StubOptions options;
  std::shared_ptr<grpc::Channel> channel;

  // A context with the deadline `timeout` from now (zero: the options' own).
  void Prepare(grpc::ClientContext& context, absl::Duration timeout) const;
  // FromGrpc; UNAVAILABLE and DEADLINE_EXCEEDED say which peer, where, and after how long.
  absl::Status Explain(const grpc::Status& status, absl::Duration timeout) const;
};

absl::StatusOr<Peer> Connect(std::string_view endpoint, std::string noun,
                             const StubOptions& options);

}  // namespace muond
