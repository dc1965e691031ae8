// The two streaming calls of the door, and how any call is answered.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "server/daemon/commands.h"

namespace grpc {
class Status;
template <typename Response>
class ServerWriteReactor;
template <typename Request>
class ServerReadReactor;
}  // namespace grpc

namespace muond {

namespace v1 {
class FetchStateRequest;
class PushStateResponse;
class StateChunk;
}  // namespace v1

// What the caller may read of a status: INTERNAL and UNKNOWN are logged, and travel without their detail.
grpc::Status ForCaller(const absl::Status& status);

// A callback that is called once with UNAVAILABLE when it is dropped uncalled (the loop has stopped).
template <typename T, typename F>
Done<T> FinishOnce(F finish) {
  struct Guard {
    explicit Guard(F f) : finish(std::move(f)) {}
    ~Guard() {
      if (!called) finish(absl::UnavailableError("the daemon is ending"));
    }
    F finish;
    bool called = false;
  };
  return [guard = std::make_unique<Guard>(std::move(finish))](absl::StatusOr<T> result) {
    guard->called = true;
    guard->finish(std::move(result));
  };
}

// FetchState: piece by piece, never more than one in flight, all of one step or ABORTED.
grpc::ServerWriteReactor<v1::StateChunk>* NewStateReader(DaemonCommands* commands,
                                                         const v1::FetchStateRequest& request);
// PushState: each chunk is written before the next is read.
grpc::ServerReadReactor<v1::StateChunk>* NewStateWriter(DaemonCommands* commands,
                                                        v1::PushStateResponse* response);

}  // namespace muond
