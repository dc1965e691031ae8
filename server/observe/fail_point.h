// Fail points: named places where a test lets this process die, as kill -9 would. Off unless configured.
// kFailPoints is the only list of names: a passage of another name does not compile, `muond --list-fail-points` prints it,
// and the tests take it from there.
// Threads: any; when off, a passage is one load.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace muond {

inline constexpr std::string_view kFailPoints[] = {
    "before_serving",  // everything is made, the keeper is not told yet
    "after_ready",     // a rank's READY was taken
    "after_sheet",     // a rank's sheet was taken
    "after_measure",   // an item was measured
    "before_verdict",  // around the journal's record of the verdict
    "after_verdict",
    "before_stage",  // per group of items, on the owner's stream: this and the next eight
    "after_stage",
    "before_flip",
    "after_flip",
    "before_copy_out",
    "mid_copy_out",
    "after_copy_out",
    "after_ready_cell",
    "before_done",  // around the end of the step
    "after_done",
    "after_write_state",  // a piece of pushed state was written
    "recover_begin",  // a successor resumes a job: before, after the fresh journal is named, at the end
    "recover_mid",
    "recover_end",
    // A job of several daemons: around a member's vote, an owner's put that is done, an item that has arrived.
    "peer_before_vote",
    "peer_after_vote",
    "peer_before_arrived",
    "peer_after_arrived",
    "peer_before_taken",
};

struct FailPointName {
  consteval FailPointName(const char* text) : name(text) {  // NOLINT: literals become names
    for (const std::string_view known : kFailPoints) {
      if (known == name) return;
    }
    throw "kFailPoints has no such name";
  }
  std::string_view name;
};

// "NAME:COUNT[,NAME:COUNT...]": the COUNT-th passage of a NAME ends the process with SIGKILL. The start-th entry is armed,
// start from 1: the first stepper dies of the first entry, its successor of the second; whoever comes after the last lives.
// An empty string switches fail points off. INVALID_ARGUMENT naming what is wrong: an unknown name, a COUNT that is no whole
// number from 1.
absl::Status ConfigureFailPoint(const std::string& list, uint32_t start = 1);
bool FailPointArmed();
void FailPoint(FailPointName point);

}  // namespace muond
