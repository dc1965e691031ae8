// Seat: who answers as the coordinator now: always this process's own, or, where several stand by, whoever leads.
// Threads: safe from any.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/coordinator/coordinator.h"

namespace muond {

class Seat {
 public:
  virtual ~Seat() = default;
  // The coordinator that may answer now. UNAVAILABLE, naming who leads, where this process only stands by.
  virtual absl::StatusOr<std::shared_ptr<Coordinator>> Sit() = 0;
  virtual std::string endpoint() const = 0;  // of this process, as others reach it

  // OK while `coordinator` may still answer: to be asked again before an answer leaves, because a process may have been
  // stopped in between.
  absl::Status Still(const std::shared_ptr<Coordinator>& coordinator) {
    const auto now = Sit();
    if (!now.ok()) return now.status();
    return *now == coordinator ? absl::OkStatus()
                               : absl::UnavailableError("the lead was lost meanwhile; ask again");
  }
};

// Of a coordinator that has its store for itself.
class OwnSeat final : public Seat {
 public:
  OwnSeat(std::shared_ptr<Coordinator> coordinator, std::string endpoint)
      : coordinator_(std::move(coordinator)), endpoint_(std::move(endpoint)) {}
  absl::StatusOr<std::shared_ptr<Coordinator>> Sit() override { return coordinator_; }
  std::string endpoint() const override { return endpoint_; }

 private:
  const std::shared_ptr<Coordinator> coordinator_;
  const std::string endpoint_;
};

}  // namespace muond
