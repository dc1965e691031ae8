// StepModel: the exactly-once protocol of server/README.md ("The step, exactly") as a state machine
// small enough to be explored in full: one or two ranks, two matrices of one shape class on one
// device, three steps.
//
// What is modelled: the cells, sheets, verdict record, journal words, slots and places of the kept
// slabs; the volatile memory of the stepper, which a crash clears between any two writes; ranks
// that reconnect and announce again; a gradient, a staged parameter and a copy-out each written in
// two halves, so that a reader can see them torn; a rank that begins the gradient of step S+1 as
// soon as its sheet of S is filled and `taken` lets it (the least patient client there can be);
// edits that a user makes to a parameter between two steps; NaN and absent gradients. What is not:
// the bytes of frames, sheets that differ, the death of a rank or of the keeper.
//
// A value is the list of what was done to it, one digit (base 5) each: 1..3 the update of that
// step, 4 an edit by the user. So a lost, doubled or reordered operation is a different value.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

namespace muond::simulation {

inline constexpr int kRanks = 2, kItems = 2, kSteps = 3, kSlotsMax = 4;

// Errors that a test plants to see that the explorer finds them.
enum class Planted : uint8_t {
  kNothing,
  kNoTaken,            // ranks do not wait for `taken`
  kNoReadyCheck,       // recovery copies out to every holder, ready or not
  kFlipBeforeVerdict,  // an item is flipped as soon as it is measured finite
  kRunBeforeCopyOut,   // recovery runs unfinished items before it copies out flipped ones
  kRecoveryIsSilent,   // recovery does not set the cells that the dead stepper still owed
};

struct StepOptions {
  int ranks = 2;
  int slots = 3;  // of the class: items + 1 or + 2
  int places = 3;
  int buckets = 2;  // 2: one matrix each, 1: both in one
  int crashes = 2;
  // A write that others could see half done is two actions and a cell behind a copy a third; else
  // only a copy-out is torn, and what nobody may read before the next write (a spare slot, a copy
  // without its cell) is skipped.
  bool fine = true;
  Planted planted = Planted::kNothing;
};

class StepModel {
 public:
  using Value = uint16_t;
  static constexpr Value kNew = 0;        // nothing done yet
  static constexpr Value kTorn = 0xffff;  // and whatever was made from something torn

  struct Word {
    uint8_t step, slot, place;
  };
  struct State {
    // Kept by the keeper.
    Value parameter[kRanks][kItems];
    Value slot[kSlotsMax], place[kSlotsMax];
    Word word[kItems];
    uint8_t ready[kRanks][kItems], taken[kRanks][kItems], over[kRanks];
    uint8_t verdict_step, verdict_go;
    // The ranks' own.
    uint8_t sheet[kRanks];             // newest sheet filled
    uint8_t gradient[kRanks][kItems];  // of step sheet + 1: 0 not begun, 1 half written, 2 whole
    uint8_t edited[kRanks][kItems];    // the edit after step `sheet` is made
    // The stepper's memory: gone with it.
    uint8_t connected[kRanks], stepped[kRanks], announced[kRanks][kItems];
    uint8_t measured[kItems];  // 0 no, 1 finite, 2 NaN, 3 torn or of another step
    uint8_t staging[kItems], stage_slot[kItems], stage_place[kItems];
    uint8_t copying[kRanks][kItems];  // 0 no, 1 half, 2 whole but the cell
    uint8_t recopy[kRanks][kItems];   // planted errors only
    uint8_t owed[kItems];             // planted errors only: what the planted recovery believes
    uint8_t crashes_left, scenario;
  };
  using Emit = absl::FunctionRef<void(uint16_t, const State&)>;

  explicit StepModel(const StepOptions& options);

  // One for each scenario: what happens to the job, whatever the interleaving. Scenarios never
  // meet.
  std::vector<State> Initial() const;
  std::string Describe(const State& state) const;  // its scenario
  void Successors(const State& state, Emit emit) const;
  std::string Violation(const State& state) const;
  bool Done(const State& state) const;
  std::string Name(uint16_t action) const;

 private:
  // What happens to the job in a run, whatever the interleaving. Step 0 is "never".
  struct Scenario {
    int nan_step = 0, nan_item = 0;
    int absent_step = 0, absent_item = 0;
    uint8_t edits = 0;                         // bit m: the user edits item m after every step
    Value parameter[kSteps + 1][kItems] = {};  // of the undisturbed sequential run, before the edit
    Value edited[kSteps + 1][kItems] = {};     // and behind it
    Value state[kSteps + 1][kItems] = {};
  };
  enum Action : uint8_t;

  void AddScenario(Scenario scenario);
  bool Present(const Scenario& scenario, int step, int item) const;
  int Bucket(int item) const { return options_.buckets == 1 ? 0 : item; }
  bool SlotIsFree(const State& s, int slot) const;
  bool PlaceIsFree(const State& s, int place) const;
  Value Gradient(const State& s, int rank, int item) const;
  bool FlippedIfPresent(const State& s, int item) const;
  void RankActions(const State& s, Emit emit) const;
  void GatherActions(const State& s, Emit emit) const;
  void ItemActions(const State& s, int item, Emit emit) const;
  void CopyActions(const State& s, int rank, int item, Emit emit) const;
  void TellActions(const State& s, Emit emit) const;
  void CrashActions(const State& s, Emit emit) const;

  StepOptions options_;
  std::vector<Scenario> scenarios_;
};

}  // namespace muond::simulation
