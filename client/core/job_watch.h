// JobWatch: releases a GPU stream that waits for a job which nobody will carry on.
//
// The host of a rank may be blocked on its own GPU, whose stream waits for `step_over`: nobody would look at the keeper's socket then.
// So a thread does. Once the keeper is gone, or the daemon has given the job up, it keeps what `step_over` says and then poisons it.
// Threads: its own, and Outcome from any.   Lifetime: cells and descriptor are borrowed. In a forked child there is no such thread,
// and the object ends there without one.
#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "kernels/runtime/cell.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

class JobWatch {
 public:
  // `keeper` is readable once it has hung up.
  static absl::StatusOr<std::unique_ptr<JobWatch>> Start(int keeper, const Cell* given_up,
                                                         Cell* step_over);
  ~JobWatch();
  // What `step_over` said last, poison left aside.
  uint64_t Outcome() const;

 private:
  JobWatch(int keeper, const Cell* given_up, Cell* step_over, UniqueFd end)
      : keeper_(keeper), given_up_(given_up), step_over_(step_over), end_(std::move(end)) {}
  void Run();

  const pid_t owner_pid_ = ::getpid();
  const int keeper_;
  const Cell* const given_up_;
  Cell* const step_over_;
  const UniqueFd end_;
  std::atomic<uint64_t> kept_{0};
  std::thread thread_;
};

}  // namespace muond
