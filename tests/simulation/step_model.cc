#include "tests/simulation/step_model.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace muond::simulation {

enum StepModel::Action : uint8_t {
  kGradientBegin,
  kGradientEnd,
  kEdit,
  kFillSheet,
  kReconnect,
  kMeasure,
  kVerdict,
  kStageBegin,
  kStageEnd,
  kFlip,
  kCopyBegin,
  kCopyEnd,
  kSetReady,
  kSetTaken,
  kStepOver,
  kCrash,
};

namespace {

using Value = StepModel::Value;

constexpr int kEditDigit = 4;

// Six digits are the longest good value; one more is as bad as torn.
Value Then(Value value, int digit) {
  constexpr Value kSixDigits = 5 * 5 * 5 * 5 * 5;
  return value >= kSixDigits || digit > kEditDigit ? StepModel::kTorn : value * 5 + digit;
}

// An action and the two things it is about fit 16 bits.
constexpr uint16_t Code(int action, int a = 0, int b = 0) {
  return static_cast<uint16_t>(action << 8 | a << 4 | b);
}

std::string Text(Value value) {
  if (value == StepModel::kTorn) return "something torn";
  if (value == StepModel::kNew) return "the first value";
  std::string text;
  for (; value > 0; value /= 5) text.insert(text.begin(), "?123E"[value % 5]);
  return text;
}

}  // namespace

StepModel::StepModel(const StepOptions& options) : options_(options) {
  for (int nan_step = 0; nan_step <= kSteps; ++nan_step) {
    for (uint8_t edits = 0; edits < 1 << kItems; ++edits) {
      for (int absent = 0; absent <= kSteps * kItems; ++absent) {
        Scenario scenario;
        scenario.nan_step = nan_step;
        scenario.nan_item = 1;
        scenario.edits = edits;
        scenario.absent_step = (absent + kItems - 1) / kItems;
        scenario.absent_item = absent % kItems;
        if (nan_step > 0 && !Present(scenario, nan_step, scenario.nan_item)) continue;
        AddScenario(scenario);
      }
    }
  }
}

// Fills in the undisturbed run.
void StepModel::AddScenario(Scenario scenario) {
  for (int item = 0; item < kItems; ++item) {
    scenario.parameter[0][item] = scenario.edited[0][item] = scenario.state[0][item] = kNew;
    for (int step = 1; step <= kSteps; ++step) {
      Value parameter = scenario.edited[step - 1][item];
      Value state = scenario.state[step - 1][item];
      if (step != scenario.nan_step && Present(scenario, step, item)) {
        parameter = Then(parameter, step);
        state = Then(state, step);
      }
      const bool edit = (scenario.edits >> item & 1) != 0;
      scenario.parameter[step][item] = parameter;
      scenario.edited[step][item] = edit ? Then(parameter, kEditDigit) : parameter;
      scenario.state[step][item] = state;
    }
  }
  scenarios_.push_back(scenario);
}

std::vector<StepModel::State> StepModel::Initial() const {
  std::vector<State> initial;
  for (size_t i = 0; i < scenarios_.size(); ++i) {
    State s;
    std::memset(&s, 0, sizeof(s));
    for (Value& value : s.slot) value = kTorn;
    for (Value& value : s.place) value = kTorn;
    for (int item = 0; item < kItems; ++item) {
      for (int rank = 0; rank < kRanks; ++rank) s.parameter[rank][item] = kNew;
      s.slot[item] = kNew;
      s.word[item].slot = static_cast<uint8_t>(item);
      s.word[item].place = static_cast<uint8_t>(item % options_.places);
    }
    for (uint8_t& connected : s.connected) connected = 1;
    s.crashes_left = static_cast<uint8_t>(options_.crashes);
    s.scenario = static_cast<uint8_t>(i);
    initial.push_back(s);
  }
  return initial;
}

bool StepModel::Present(const Scenario& scenario, int step, int item) const {
  return step != scenario.absent_step || item != scenario.absent_item;
}

// The item has nothing left to do in the step of the newest verdict, which is GO.
bool StepModel::FlippedIfPresent(const State& s, int item) const {
  return s.word[item].step == s.verdict_step ||
         !Present(scenarios_[s.scenario], s.verdict_step, item);
}

bool StepModel::SlotIsFree(const State& s, int slot) const {
  for (int item = 0; item < kItems; ++item) {
    if (s.word[item].slot == slot) return false;
    if (s.staging[item] != 0 && s.stage_slot[item] == slot) return false;
  }
  return true;
}

bool StepModel::PlaceIsFree(const State& s, int place) const {
  for (int item = 0; item < kItems; ++item) {
    if (s.staging[item] != 0 && s.stage_place[item] == place) return false;
    if (s.word[item].place != place) continue;
    for (int rank = 0; rank < options_.ranks; ++rank) {
      if (s.ready[rank][item] < s.word[item].step) return false;
    }
  }
  return true;
}

// What a reader of the rank's gradient finds: a step, or something torn.
StepModel::Value StepModel::Gradient(const State& s, int rank, int item) const {
  if (s.gradient[rank][item] == 1) return kTorn;
  return s.sheet[rank] + (s.gradient[rank][item] == 2 ? 1 : 0);
}

void StepModel::Successors(const State& s, Emit emit) const {
  RankActions(s, emit);
  GatherActions(s, emit);
  for (int item = 0; item < kItems; ++item) {
    ItemActions(s, item, emit);
    for (int rank = 0; rank < options_.ranks; ++rank) CopyActions(s, rank, item, emit);
  }
  TellActions(s, emit);
  CrashActions(s, emit);
}

void StepModel::RankActions(const State& s, Emit emit) const {
  const Scenario& scenario = scenarios_[s.scenario];
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const int last = s.sheet[rank];
    const bool more = last < kSteps;
    bool sheet_may_follow = more && s.over[rank] >= last;
    for (int item = 0; item < kItems; ++item) {
      const bool writes = more && Present(scenario, last + 1, item);
      const bool may_write =
          s.taken[rank][Bucket(item)] >= last || options_.planted == Planted::kNoTaken;
      if (writes && s.gradient[rank][item] == 0 && may_write) {
        State next = s;
        next.gradient[rank][item] = options_.fine ? 1 : 2;
        if (!options_.fine && s.connected[rank] != 0) next.announced[rank][item] = 1;
        emit(Code(options_.fine ? kGradientBegin : kGradientEnd, rank, item), next);
      } else if (writes && s.gradient[rank][item] == 1) {
        State next = s;
        next.gradient[rank][item] = 2;
        if (s.connected[rank] != 0) next.announced[rank][item] = 1;
        emit(Code(kGradientEnd, rank, item), next);
      }
      const bool edits = last > 0 && (scenario.edits >> item & 1) != 0;
      const bool sees_step = s.over[rank] >= last || s.ready[rank][item] >= last;
      if (edits && sees_step && s.edited[rank][item] == 0) {
        State next = s;
        next.parameter[rank][item] = Then(s.parameter[rank][item], kEditDigit);
        next.edited[rank][item] = 1;
        emit(Code(kEdit, rank, item), next);
      }
      if (writes && s.gradient[rank][item] != 2) sheet_may_follow = false;
      if (edits && s.edited[rank][item] == 0) sheet_may_follow = false;
    }
    if (sheet_may_follow) {
      State next = s;
      next.sheet[rank]++;
      next.stepped[rank] = s.connected[rank];
      for (int item = 0; item < kItems; ++item) {
        next.gradient[rank][item] = next.edited[rank][item] = 0;
      }
      emit(Code(kFillSheet, rank), next);
    }
    if (s.connected[rank] == 0) {  // to the successor: announce again what has no verdict
      State next = s;
      next.connected[rank] = 1;
      const bool waits = last > s.verdict_step;
      next.stepped[rank] = waits;
      for (int item = 0; item < kItems; ++item) {
        next.announced[rank][item] =
            waits ? Present(scenario, last, item) : s.gradient[rank][item] == 2;
      }
      emit(Code(kReconnect, rank), next);
    }
  }
}

void StepModel::GatherActions(const State& s, Emit emit) const {
  const Scenario& scenario = scenarios_[s.scenario];
  const int step = s.verdict_step + 1;
  if (step > kSteps) return;
  bool all_sheets = true, all_measured = true, void_step = false;
  for (int rank = 0; rank < options_.ranks; ++rank) all_sheets &= s.stepped[rank] != 0;
  for (int item = 0; item < kItems; ++item) {
    if (!Present(scenario, step, item)) continue;
    bool whole = true, good = true;
    for (int rank = 0; rank < options_.ranks; ++rank) {
      whole &= s.announced[rank][item] != 0;
      good &= Gradient(s, rank, item) == static_cast<Value>(step);
    }
    if (whole && s.measured[item] == 0) {
      State next = s;
      const bool nan = scenario.nan_step == step && scenario.nan_item == item;
      next.measured[item] = !good ? 3 : nan ? 2 : 1;
      emit(Code(kMeasure, item), next);
    }
    all_measured &= s.measured[item] != 0;
    void_step |= s.measured[item] == 2;
  }
  if (!all_sheets || !all_measured) return;
  State next = s;
  next.verdict_step = static_cast<uint8_t>(step);
  next.verdict_go = !void_step;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    next.stepped[rank] = 0;
    for (int item = 0; item < kItems; ++item) next.announced[rank][item] = 0;
  }
  for (int item = 0; item < kItems; ++item) next.measured[item] = next.owed[item] = 0;
  emit(Code(kVerdict, step, next.verdict_go), next);
}

// Stage and flip.
void StepModel::ItemActions(const State& s, int item, Emit emit) const {
  const Scenario& scenario = scenarios_[s.scenario];
  int step = s.verdict_step;
  bool go = s.verdict_go != 0 && s.word[item].step < step && Present(scenario, step, item);
  if (options_.planted == Planted::kFlipBeforeVerdict && !go && s.measured[item] == 1) {
    step = s.verdict_step + 1;
    go = s.word[item].step < step;
  }
  if (!go) return;
  const auto stage = [&](State next) {  // gradient and old parameter of any holder
    for (int rank = 0; rank < options_.ranks; ++rank) {
      const Value gradient = Gradient(s, rank, item);
      next.slot[next.stage_slot[item]] = Then(s.slot[s.word[item].slot], gradient);
      next.place[next.stage_place[item]] = Then(s.parameter[rank][item], gradient);
      next.staging[item] = 2;
      emit(Code(kStageEnd, item, rank), next);
    }
  };
  if (s.staging[item] == 0) {
    int slot = 0, place = 0;
    while (slot < options_.slots && !SlotIsFree(s, slot)) ++slot;
    while (place < options_.places && !PlaceIsFree(s, place)) ++place;
    if (slot == options_.slots || place == options_.places) return;  // waits for a spare
    State next = s;
    next.staging[item] = 1;
    next.stage_slot[item] = static_cast<uint8_t>(slot);
    next.stage_place[item] = static_cast<uint8_t>(place);
    next.slot[slot] = next.place[place] = kTorn;
    if (options_.fine) {
      emit(Code(kStageBegin, item, slot << 2 | place), next);
    } else {
      stage(next);
    }
  } else if (s.staging[item] == 1) {
    stage(s);
  } else {
    State next = s;
    next.word[item] = {static_cast<uint8_t>(step), s.stage_slot[item], s.stage_place[item]};
    next.staging[item] = next.stage_slot[item] = next.stage_place[item] = 0;
    if (options_.planted == Planted::kRunBeforeCopyOut) next.owed[item] = 0;
    emit(Code(kFlip, item, step), next);
  }
}

void StepModel::CopyActions(const State& s, int rank, int item, Emit emit) const {
  const Word word = s.word[item];
  if (s.copying[rank][item] == 0) {
    const bool owes = s.ready[rank][item] < word.step || s.recopy[rank][item] != 0;
    const bool waits = options_.planted == Planted::kRunBeforeCopyOut && (s.owed[0] | s.owed[1]);
    if (!owes || waits || word.step > s.verdict_step) return;
    State next = s;
    next.copying[rank][item] = 1;
    next.recopy[rank][item] = 0;
    next.parameter[rank][item] = kTorn;
    emit(Code(kCopyBegin, rank, item), next);
  } else if (s.copying[rank][item] == 1) {
    State next = s;
    next.parameter[rank][item] = s.place[word.place];
    if (options_.fine) {
      next.copying[rank][item] = 2;
    } else {
      next.copying[rank][item] = 0;
      if (next.ready[rank][item] < word.step) next.ready[rank][item] = word.step;
    }
    emit(Code(kCopyEnd, rank, item), next);
  } else {
    State next = s;
    next.copying[rank][item] = 0;
    if (next.ready[rank][item] < word.step) next.ready[rank][item] = word.step;
    emit(Code(kSetReady, rank, item), next);
  }
}

// The other cells: each is set when what it says holds, in this life of the stepper or in an
// earlier one.
void StepModel::TellActions(const State& s, Emit emit) const {
  const uint8_t step = s.verdict_step;
  const bool silent = options_.planted == Planted::kRecoveryIsSilent;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (s.over[rank] >= step) continue;
    bool over = !silent || s.owed[0] == 0 || s.owed[1] == 0;
    for (int item = 0; item < kItems; ++item) {
      const bool present = Present(scenarios_[s.scenario], step, item);
      if (s.verdict_go != 0 && !present && s.ready[rank][item] < step) {
        State next = s;
        next.ready[rank][item] = step;
        emit(Code(kSetReady, rank, item), next);
      }
      if (s.verdict_go != 0 && s.ready[rank][item] < step) over = false;
    }
    for (int bucket = 0; bucket < options_.buckets; ++bucket) {
      if (s.taken[rank][bucket] >= step) continue;
      over = false;
      bool taken = true;
      for (int item = 0; item < kItems; ++item) {
        if (Bucket(item) != bucket) continue;
        if (s.verdict_go != 0 && !FlippedIfPresent(s, item)) taken = false;
        if (silent && s.owed[item] != 0) taken = false;
      }
      if (!taken) continue;
      State next = s;
      next.taken[rank][bucket] = step;
      emit(Code(kSetTaken, rank, bucket), next);
    }
    if (!over) continue;
    State next = s;
    next.over[rank] = step;
    emit(Code(kStepOver, rank, step), next);
  }
}

// The stepper dies and its successor starts: everything volatile is gone, nobody is connected.
void StepModel::CrashActions(const State& s, Emit emit) const {
  if (s.crashes_left == 0) return;
  State next = s;
  next.crashes_left--;
  for (int item = 0; item < kItems; ++item) {
    next.measured[item] = 0;
    next.staging[item] = next.stage_slot[item] = next.stage_place[item] = 0;
    next.owed[item] = 0;
    const bool flipped = FlippedIfPresent(s, item);
    if (options_.planted == Planted::kRunBeforeCopyOut) {
      next.owed[item] = s.verdict_go != 0 && !flipped;
    } else if (options_.planted == Planted::kRecoveryIsSilent) {
      next.owed[item] = s.verdict_go == 0 || flipped;
    }
    for (int rank = 0; rank < options_.ranks; ++rank) {
      next.announced[rank][item] = next.copying[rank][item] = 0;
      next.recopy[rank][item] = options_.planted == Planted::kNoReadyCheck && s.word[item].step > 0;
    }
  }
  for (int rank = 0; rank < options_.ranks; ++rank) next.connected[rank] = next.stepped[rank] = 0;
  emit(Code(kCrash), next);
}

std::string StepModel::Violation(const State& s) const {
  const Scenario& scenario = scenarios_[s.scenario];
  const int verdict = s.verdict_step;
  for (int item = 0; item < kItems; ++item) {
    if (s.measured[item] == 3) {
      return absl::StrFormat("item %d was measured on a gradient that is torn or of another step",
                             item);
    }
    if (verdict > 0 && s.verdict_go == 0 && s.word[item].step >= verdict) {
      return absl::StrFormat("step %d is VOID, and changed item %d", verdict, item);
    }
    if (s.word[item].slot == s.word[1 - item].slot) return "two items share a slot";
  }
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const int last = s.sheet[rank];
    for (int item = 0; item < kItems; ++item) {
      // The parameter is the rank's own from the moment it is told so to the verdict of the next
      // step.
      Value expected = s.parameter[rank][item];
      if (s.over[rank] == last || s.ready[rank][item] == last) {
        const bool edited = s.edited[rank][item] != 0;
        expected = (edited ? scenario.edited : scenario.parameter)[last][item];
      } else if (verdict < last) {
        expected = scenario.edited[last - 1][item];
      }
      if (s.parameter[rank][item] != expected) {
        return absl::StrFormat("after step %d rank %d holds %s of item %d, not %s", last, rank,
                               Text(s.parameter[rank][item]), item, Text(expected));
      }
      const Value state = s.slot[s.word[item].slot];
      if (s.over[rank] == verdict && s.word[item].step <= verdict &&
          state != scenario.state[verdict][item]) {
        return absl::StrFormat("step %d is over, and the state of item %d is %s, not %s", verdict,
                               item, Text(state), Text(scenario.state[verdict][item]));
      }
    }
  }
  return "";
}

// Over for everybody, the last edit included. What the values must be then, Violation has checked.
bool StepModel::Done(const State& s) const {
  const Scenario& scenario = scenarios_[s.scenario];
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (s.over[rank] < kSteps) return false;
    for (int item = 0; item < kItems; ++item) {
      if ((scenario.edits >> item & 1) != s.edited[rank][item]) return false;
    }
  }
  return true;
}

std::string StepModel::Describe(const State& s) const {
  const Scenario& scenario = scenarios_[s.scenario];
  std::string text = "plain";
  if (scenario.nan_step > 0) text = absl::StrFormat("NaN in step %d", scenario.nan_step);
  if (scenario.absent_step > 0) {
    absl::StrAppendFormat(&text, ", no gradient of item %d in step %d", scenario.absent_item,
                          scenario.absent_step);
  }
  if (scenario.edits > 0)
    absl::StrAppendFormat(&text, ", edits of items (mask %d)", scenario.edits);
  return text;
}

std::string StepModel::Name(uint16_t action) const {
  const int a = action >> 4 & 15, b = action & 15;
  switch (static_cast<Action>(action >> 8)) {
    case kGradientBegin:
      return absl::StrFormat("rank %d writes half of the gradient of item %d", a, b);
    case kGradientEnd:
      return absl::StrFormat("rank %d writes the rest of it, announces item %d", a, b);
    case kEdit:
      return absl::StrFormat("user edits item %d on rank %d", b, a);
    case kFillSheet:
      return absl::StrFormat("rank %d fills its sheet, sends STEP", a);
    case kReconnect:
      return absl::StrFormat("rank %d reconnects and announces again", a);
    case kMeasure:
      return absl::StrFormat("measure item %d", a);
    case kVerdict:
      return absl::StrFormat("verdict of step %d: %s", a, b != 0 ? "GO" : "VOID");
    case kStageBegin:
      return absl::StrFormat("stage half of item %d, slot %d, place %d", a, b >> 2, b & 3);
    case kStageEnd:
      return absl::StrFormat("stage the rest of item %d, read from rank %d", a, b);
    case kFlip:
      return absl::StrFormat("flip item %d to step %d", a, b);
    case kCopyBegin:
      return absl::StrFormat("copy out half of item %d to rank %d", b, a);
    case kCopyEnd:
      return absl::StrFormat("copy out the rest of item %d to rank %d", b, a);
    case kSetReady:
      return absl::StrFormat("parameter_ready of item %d on rank %d", b, a);
    case kSetTaken:
      return absl::StrFormat("taken of bucket %d for rank %d", b, a);
    case kStepOver:
      return absl::StrFormat("step_over of step %d for rank %d", b, a);
    case kCrash:
      return "the stepper dies; a successor starts";
  }
  return "?";
}

}  // namespace muond::simulation
