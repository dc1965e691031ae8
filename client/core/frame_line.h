// FrameLine: a rank's line to whichever stepper serves now.
// The stepper may die and come back; the keeper holds the path. The line says hello on every new
// connection, and tells its owner when it is welcome, so that the owner can announce again what has
// no outcome. Two sockets are watched at once: the stepper's, and the keeper's, whose end is the
// end of everything. (Plain sockets rather than a Carrier: both must be known to fork_guard.h.)
// Threads: one at a time.
// Errors:  UNAVAILABLE, for good: the keeper's socket closed, or no stepper came back within
// `repair_timeout`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/carrier/ipc/slab_fetch.h"
#include "proto/carrier/ipc/unique_fd.h"
#include "proto/wire/frame.h"

namespace muond {

enum class LineEvent : uint8_t {
  kNothing = 1,  // the time passed
  kFrames = 2,   // something came
  kWelcome = 3,  // a stepper took our hello: say again what is open
};

class FrameLine {
 public:
  // `identity` has job, session, rank, incarnation and epoch, as every frame of this rank must.
  // Connects when first used.
  FrameLine(std::string path, const Frame& identity, std::unique_ptr<SlabFetch> keeper,
            absl::Duration repair_timeout);
  ~FrameLine();

  // A frame of this rank with the given type; fill in the rest.
  Frame Make(FrameType type, uint64_t step) const;
  // Offered to the stepper. Dropped where there is none, since kWelcome follows, and where it does
  // not read.
  void Send(const Frame& frame);
  // Waits until something happens, at most `timeout`. `frames` gets what came, kWelcome frames
  // included. `last_step`: what our hello says.
  absl::StatusOr<LineEvent> Wait(absl::Duration timeout, uint64_t last_step,
                                 std::vector<Frame>* frames);
  // How often a welcome stepper was lost.
  uint32_t losses() const { return losses_; }

 private:
  enum class State : uint8_t { kDown, kGreeting, kWelcome };
  void Die();
  void Connect(uint64_t last_step);
  void Lose();
  void Receive(std::vector<Frame>* frames);

  const std::string path_;
  const Frame identity_;
  const std::unique_ptr<SlabFetch> keeper_;
  const absl::Duration repair_timeout_;
  State state_ = State::kDown;
  UniqueFd socket_;
  absl::Time down_since_ = absl::InfinitePast();  // InfinitePast: not counted yet
  absl::Time greeted_at_;
  absl::Duration back_off_ = absl::Milliseconds(1);
  absl::Status why_down_;
  absl::Status dead_;
  uint32_t losses_ = 0;
};

}  // namespace muond
