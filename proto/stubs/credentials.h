// gRPC credentials from TlsOptions. Only the stubs, *_service.cc and main.cc include this.
// Certificates that are replaced on disk count from the next connection on, a second or two later at most; what is connected
// stays. Replace key and certificate by one rename (of a link to their folder, as Kubernetes does), or connections fail
// until both are there.
#pragma once

#include <memory>
#include <string_view>

#include "proto/stubs/tls_options.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace muond {

// Of a door at `endpoint`: plain for a Unix socket, and without tls.cert. The options have passed CheckDoorTls.
std::shared_ptr<grpc::ServerCredentials> DoorCredentials(std::string_view endpoint,
                                                         const TlsOptions& tls);
// Of calls to `endpoint`: plain for a Unix socket, and without tls.ca. The options have passed CheckCallTls.
std::shared_ptr<grpc::ChannelCredentials> CallCredentials(std::string_view endpoint,
                                                          const TlsOptions& tls);

}  // namespace muond
