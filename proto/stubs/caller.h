// Caller: a connection and the calls of one generated service through it. Only the stubs include this.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/channel.h"
#include "proto/types/version.h"

namespace muond {

template <typename Service>
struct Caller {
  Peer peer;
  std::unique_ptr<typename Service::Stub> stub;

  // `noun`: "the daemon". INVALID_ARGUMENT for an endpoint that is none.
  absl::Status Open(std::string_view endpoint, std::string noun, const StubOptions& options) {
    absl::StatusOr<Peer> connected = Connect(endpoint, std::move(noun), options);
    if (!connected.ok()) return connected.status();
    peer = *std::move(connected);
    stub = Service::NewStub(peer.channel);
    return absl::OkStatus();
  }

  // One unary call: `method` of the generated stub.
  template <typename Request, typename Response, typename Method>
  absl::Status Call(Method method, const Request& request, Response* response,
                    absl::Duration timeout) {
    grpc::ClientContext context;
    peer.Prepare(context, timeout);
    return peer.Explain(((*stub).*method)(&context, request, response), timeout);
  }

  absl::Status CheckPeer(const ProtocolVersion& theirs) const {
    return CheckVersion(theirs, peer.noun + " at " + peer.endpoint, peer.options.version);
  }
};

}  // namespace muond
