// Cells that a rank's GPU writes: they come when its stream gets there, after the frames that speak of them, and wake nobody.
#include <algorithm>

#include "server/daemon/job.h"

namespace muond {

bool Job::WritesLater(uint32_t rank) const {
  return context_.watch != nullptr && !layout_->ranks[rank]->device_uuid.empty();
}

bool Job::EndsOnStream() const {
  if (context_.fail_points || !alone())
    return false;  // their passages are host functions, in the order of the protocol
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    if (!WritesLater(rank)) return false;
  }
  return std::count_if(runnable_.begin(), runnable_.end(),
                       [](const auto& items) { return !items.empty(); }) == 1;
}

void Job::WatchGradient(uint32_t rank, uint32_t bucket) {
  if (!WritesLater(rank)) return;
  const uint64_t step = gatherer_->step();
  uint64_t& watched = watched_[size_t{rank} * layout_->page.buckets + bucket];
  if (watched == step || gatherer_->announced(rank, bucket)) return;
  watched = step;
  context_.watch->Watch(&page_->gradient_ready(rank, bucket), step << 16,
                        {CompletionKind::kGradientCell, id(), uint64_t{rank} << 32 | bucket},
                        /*urgent=*/true);
}

void Job::WatchSheets() {
  // The STEP frame says it sooner; but one that went to a dead stepper is not repeated while the rank's host waits for its GPU.
  const uint64_t step = gatherer_->step();
  for (uint32_t rank = 0; rank < ranks(); ++rank) {
    if (!WritesLater(rank) || !layout_->view.local(rank)) continue;
    if (page_->sheet(rank, step).commit.load(std::memory_order_acquire) >= step) {
      for (uint32_t bucket = 0; bucket < layout_->page.buckets; ++bucket)
        WatchGradient(rank, bucket);
      continue;
    }
    context_.watch->Watch(&page_->sheet(rank, step).commit, step,
                          {CompletionKind::kSheetCell, id(), rank}, /*urgent=*/false);
  }
}

void Job::SheetCame(uint32_t rank) {
  if (phase_ != JobPhase::kGathering) return;
  const uint64_t step = gatherer_->step();
  if (page_->sheet(rank, step).commit.load(std::memory_order_acquire) == step) SheetFilled(rank);
}

void Job::ForgetCells() {
  if (context_.watch != nullptr) context_.watch->Forget(id());
}

}  // namespace muond
