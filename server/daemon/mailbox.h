// Mailbox: what other threads hand to the StepLoop: device streams their completions, the gRPC door its commands.
// Posting a completion allocates nothing once the box has grown to its working size.
// Threads: Post from any thread; Take and event_descriptor by the StepLoop.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/carrier/ipc/unique_fd.h"

namespace muond {

enum class CompletionKind : uint8_t {
  kMeasured = 1,
  kGroupDone = 2,
  kJobStepDone = 3,
  kGradientCell = 4,  // of a rank whose device writes its cells
  kSheetCell = 5,
  kItemLanded = 6,  // an item of another member is with our ranks
};
struct Completion {
  CompletionKind kind = CompletionKind::kMeasured;
  uint64_t job = 0;
  uint64_t value = 0;  // kMeasured: device; kGroupDone: index of the run; kJobStepDone: the step;
      // kGradientCell: rank << 32 | bucket; kSheetCell: rank; kItemLanded: the item
};

class Mailbox {
 public:
  static absl::StatusOr<std::unique_ptr<Mailbox>> Create();

  void Post(const Completion& completion);
  // False, and `command` is destroyed uncalled, after Close.
  bool Post(absl::AnyInvocable<void()> command);
  void Close();

  int event_descriptor() const { return event_.get(); }
  // Swaps out everything posted; the vectors passed are cleared first and their memory reused.
  void Take(std::vector<Completion>* completions,
            std::vector<absl::AnyInvocable<void()>>* commands);

 private:
  explicit Mailbox(UniqueFd event) : event_(std::move(event)) {}
  void Wake();

  UniqueFd event_;
  absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Completion> completions_ ABSL_GUARDED_BY(mutex_);
  std::vector<absl::AnyInvocable<void()>> commands_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond
