// gRPC's status and abseil's, code for code. Only stubs, *_service.cc and main.cc include this.
#pragma once

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace muond {

grpc::Status ToGrpc(
    const absl::Status& status);  // the message is cut at 2 KiB: it travels in a header
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace muond
