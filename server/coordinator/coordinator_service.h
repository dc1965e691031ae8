// The coordinator's gRPC door. Protobuf stays in the .cc.
#pragma once

#include <memory>

#include "server/coordinator/coordinator.h"

namespace grpc {
class Service;
}

namespace muond {

// `coordinator` is borrowed and must outlive the service; the service must outlive the server it is registered with.
std::unique_ptr<grpc::Service> CreateCoordinatorService(Coordinator* coordinator);

}  // namespace muond
