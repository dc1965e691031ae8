// The gRPC door of a coordinator that may only stand by: every call goes to whoever sits (seat.h), or is UNAVAILABLE with the
// leader's name.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "server/coordinator/seat.h"

namespace grpc {
class Service;
}

namespace muond {

// Serves nobody until `Take`: the endpoint, by which others know a seat, is known only once the door is open.
class LateSeat {
 public:
  Seat* get() const { return seat_.load(); }
  void Take(Seat* seat) { seat_.store(seat); }  // borrowed; null: nobody again

 private:
  std::atomic<Seat*> seat_{nullptr};
};

// `seat` is borrowed and must outlive the service.
// `called`: told of each call and its outcome, from any thread.
using CallObserver = std::function<void(const char* call, const absl::Status& status)>;
std::unique_ptr<grpc::Service> CreateSeatService(LateSeat* seat, CallObserver called);

}  // namespace muond
