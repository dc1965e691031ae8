// GrpcDoor: the daemon's gRPC server. Protobuf stops in daemon_service.cc: it checks and converts, hands plain values to
// DaemonCommands, and turns the answers back. Health service on, reflection off, messages capped at kMessageBytesMax.
// Threads: gRPC's own; Open, SetServing and Close from one thread.
// Errors:  INTERNAL and UNKNOWN are logged and answered without their detail; everything else travels as it is.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/tls_options.h"
#include "server/daemon/commands.h"

namespace grpc {
class Service;
}

namespace muond {

struct GrpcDoorOptions {
  DaemonCommands* commands = nullptr;  // outlives the door
  std::string unix_path;               // a stale socket there is replaced
  std::string tcp;                     // "host:port" or empty
  TlsOptions tls;                      // of the TCP door
  std::string keeper_socket;           // told to ranks that attach
  std::string frame_socket;
  absl::Duration join_timeout = absl::Minutes(5);
  // Fills in what only the process knows (pids, endpoints, uptime); any thread.
  std::function<void(StatusReport*)> complete_status = [](StatusReport*) {};
  std::vector<grpc::Service*> more_services;  // borrowed: the embedded coordinator's
};

class GrpcDoor {
 public:
  // Listening on return; health says NOT_SERVING until SetServing(true). UNAVAILABLE with the addresses when one is taken.
  static absl::StatusOr<std::unique_ptr<GrpcDoor>> Open(GrpcDoorOptions options);
  virtual ~GrpcDoor() = default;  // closes

  virtual std::string unix_endpoint() const = 0;  // "unix:/path"
  virtual std::string tcp_endpoint() const = 0;   // with the port that was taken; empty: none
  virtual void SetServing(bool serving) = 0;
  // No new calls; those that run have `grace`, then they are cancelled.
  virtual void Close(absl::Duration grace) = 0;
};

}  // namespace muond
