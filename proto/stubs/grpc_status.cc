#include "proto/stubs/grpc_status.h"

#include <grpcpp/support/status.h>

#include <string>

namespace muond {
namespace {

constexpr size_t kMessageBytesShown =
    2048;  // gRPC drops trailers beyond 8 KiB, and percent-encodes

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message().substr(0, kMessageBytesShown)));
}

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace muond
