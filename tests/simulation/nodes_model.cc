#include "tests/simulation/nodes_model.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace muond::simulation {

enum NodesModel::Action : uint8_t {
  kGradient,
  kFillSheet,
  kMeasure,
  kSendVote,
  kTakeVote,
  kJudge,
  kJournalLate,
  kTell,
  kTakeVerdict,
  kStageAndFlip,
  kCopyBegin,
  kCopyEnd,
  kCopyOut,
  kFill,
  kPutBegin,
  kPutEnd,
  kLatePut,
  kTakeArrived,
  kTakeAck,
  kStepOver,
  kDeadline,
  kAgain,
  kLoseFrame,
  kLink,
  kCrash,
};

namespace {

using Value = NodesModel::Value;

constexpr uint8_t kVoid = 1, kGo = 2;
constexpr uint8_t kFinite = 1, kNaN = 2, kWrong = 3;
constexpr int kChief = 0, kMember = 1;

Value Then(Value value, int digit) {
  constexpr Value kTwoDigits = 9;
  return value >= kTwoDigits || digit > 2 ? NodesModel::kTorn
                                          : static_cast<Value>(value * 3 + digit);
}

constexpr uint16_t Code(int action, int a = 0, int b = 0) {
  return static_cast<uint16_t>(action << 8 | a << 4 | b);
}

std::string Text(Value value) {
  if (value == NodesModel::kTorn) return "something torn";
  if (value == 0) return "the first value";
  std::string text;
  for (; value > 0; value /= 3) text.insert(text.begin(), "?12"[value % 3]);
  return text;
}

}  // namespace

NodesModel::State NodesModel::Initial() const {
  State s;
  std::memset(&s, 0, sizeof s);
  for (auto& place : s.place) place = kTorn;
  for (auto& row : s.exchange) {
    for (auto& value : row) value = kTorn;
  }
  s.linked = 1;
  s.crashes_left = static_cast<uint8_t>(options_.crashes);
  s.voids_left = options_.rank_dies ? 1 : 0;
  s.disturbances_left = static_cast<uint8_t>(options_.disturbances);
  return s;
}

bool NodesModel::Running(const State& s, int node) const {
  return s.over[node] < s.verdict_step[node];
}

NodesModel::Value NodesModel::Gradient(const State& s, int node) const {
  return static_cast<Value>(s.sheet[node] + s.gradient[node]);
}

// Of the undisturbed run, given what was said about each step.
NodesModel::Value NodesModel::Expected(const State& s, int step) const {
  Value value = 0;
  for (int i = 1; i <= step; ++i) {
    if (s.outcome[i] == kGo) value = Then(value, i);
  }
  return value;
}

void NodesModel::Successors(const State& s, Emit emit) const {
  for (int node = 0; node < kNodes; ++node) {
    RankActions(s, node, emit);
    MeasureAndVote(s, node, emit);
    OwnItem(s, node, emit);
    SendItem(s, node, emit);
    OtherItem(s, node, emit);
    TellActions(s, node, emit);
    Crash(s, node, emit);
  }
  ChiefActions(s, emit);
  MemberActions(s, emit);
  Losses(s, emit);
}

void NodesModel::RankActions(const State& s, int node, Emit emit) const {
  const int last = s.sheet[node];
  if (last == kNodeSteps) return;
  State next = s;
  if (s.gradient[node] == 0 && s.taken[node] >= last) {
    next.gradient[node] = 1;
    emit(Code(kGradient, node), next);
  } else if (s.gradient[node] == 1 && s.over[node] >= last) {
    next.sheet[node]++;
    next.gradient[node] = 0;
    emit(Code(kFillSheet, node), next);
  }
}

void NodesModel::MeasureAndVote(const State& s, int node, Emit emit) const {
  const int step = s.verdict_step[node] + 1;
  if (Running(s, node) || s.sheet[node] < step) return;
  if (s.measured[node] == 0) {
    State next = s;
    const bool nan = options_.nan && node == kMember && step == 1;
    next.measured[node] = Gradient(s, node) != step ? kWrong : nan ? kNaN : kFinite;
    emit(Code(kMeasure, node), next);
  } else if (node == kMember && s.linked != 0 && s.vote == 0 && s.vote_sent == 0) {
    State next = s;
    next.vote = static_cast<uint8_t>(step);
    next.vote_value = s.measured[node];
    next.vote_sent = 1;
    emit(Code(kSendVote, step), next);
  }
}

void NodesModel::ChiefActions(const State& s, Emit emit) const {
  const int step = s.verdict_step[kChief] + 1;
  if (s.vote != 0) {
    State next = s;
    if (s.vote == step) {
      next.voted = s.vote_value;
    } else if (s.vote < step) {
      next.tell = 1;  // it has not heard
    }
    next.vote = next.vote_value = 0;
    emit(Code(kTakeVote, s.vote), next);
  }
  if (s.deciding != 0) {
    State next = s;
    next.verdict_step[kChief] = static_cast<uint8_t>(step);
    next.verdict_go[kChief] = s.deciding == kGo;
    next.deciding = next.measured[kChief] = next.voted = 0;
    emit(Code(kJournalLate, step), next);
  }
  const bool judging = !Running(s, kChief) && step <= kNodeSteps && s.deciding == 0;
  if (judging && s.voids_left > 0) {
    State next = s;
    next.voids_left = 0;
    Judge(next, kVoid, emit);
  }
  const bool members = s.voted != 0 || options_.planted == PlantedInNodes::kVerdictWithoutMembers;
  if (judging && s.measured[kChief] != 0 && members) {
    Judge(s, s.measured[kChief] == kFinite && s.voted <= kFinite ? kGo : kVoid, emit);
  }
  // The newest verdict is all that a member can lack: the next one needs its vote.
  if (s.tell != 0 && s.linked != 0 && s.verdict == 0 && s.verdict_step[kChief] > 0) {
    State next = s;
    next.tell = 0;
    next.verdict = s.verdict_step[kChief];
    next.verdict_value = s.verdict_go[kChief] != 0 ? kGo : kVoid;
    emit(Code(kTell, next.verdict, next.verdict_value), next);
  }
}

void NodesModel::Judge(const State& s, uint8_t outcome, Emit emit) const {
  const int step = s.verdict_step[kChief] + 1;
  State next = s;
  if (options_.planted == PlantedInNodes::kTellBeforeJournal) {
    if (s.linked == 0 || s.verdict != 0) return;
    next.deciding = outcome;
    next.verdict = static_cast<uint8_t>(step);
    next.verdict_value = outcome;
  } else {
    next.verdict_step[kChief] = static_cast<uint8_t>(step);
    next.verdict_go[kChief] = outcome == kGo;
    next.measured[kChief] = next.voted = 0;
    next.tell = 1;
  }
  if (s.outcome[step] == 0) next.outcome[step] = outcome;
  emit(Code(kJudge, step, outcome), next);
}

void NodesModel::MemberActions(const State& s, Emit emit) const {
  if (s.verdict == 0) return;
  const int step = s.verdict_step[kMember] + 1;
  State next = s;
  next.verdict = next.verdict_value = 0;
  if (s.verdict < step) {  // heard before
    emit(Code(kTakeVerdict, s.verdict), next);
  } else if (s.verdict == step && !Running(s, kMember)) {
    if (options_.planted == PlantedInNodes::kFlipBeforeJournal && s.verdict_value == kGo &&
        s.accepted == 0) {
      next.accepted = static_cast<uint8_t>(step);
      emit(Code(kTakeVerdict, step), next);
      return;
    }
    next.verdict_step[kMember] = static_cast<uint8_t>(step);
    next.verdict_go[kMember] = s.verdict_value == kGo;
    next.measured[kMember] = next.vote_sent = 0;
    emit(Code(kTakeVerdict, step), next);
  }
  // A verdict that comes while the step before is being finished waits.
}

void NodesModel::OwnItem(const State& s, int node, Emit emit) const {
  int step = s.verdict_step[node];
  bool go = s.verdict_go[node] != 0 && s.word[node] < step;
  if (options_.planted == PlantedInNodes::kFlipBeforeVerdict && s.measured[node] == kFinite) {
    step = s.verdict_step[node] + 1;
    go = s.word[node] < step;
  }
  if (node == kMember && s.accepted > step) {
    step = s.accepted;
    go = s.word[node] < step;
  }
  // Its one place is free when the rank and the exchange slab have what it held.
  const bool free = s.ready[node][node] >= s.word[node] && s.filled[node] >= s.word[node];
  if (go && free) {
    State next = s;
    next.slot[node] = Then(s.slot[node], Gradient(s, node));
    next.place[node] = Then(s.parameter[node][node], Gradient(s, node));
    next.word[node] = next.taken[node] = static_cast<uint8_t>(step);
    emit(Code(kStageAndFlip, node, step), next);
  }
  if (node == kMember && s.accepted != 0 && s.accepted == s.word[node]) {
    State next = s;
    next.verdict_step[kMember] = s.accepted;
    next.verdict_go[kMember] = 1;
    next.accepted = next.measured[kMember] = next.vote_sent = 0;
    emit(Code(kJournalLate, s.word[node]), next);
  }
  if (s.filled[node] < s.word[node]) {
    State next = s;
    next.exchange[node][node] = s.place[node];
    next.filled[node] = s.word[node];
    next.resend[node] = 1;
    emit(Code(kFill, node), next);
  }
  if (s.ready[node][node] < s.word[node]) {
    State next = s;
    next.parameter[node][node] = s.place[node];
    next.ready[node][node] = s.word[node];
    emit(Code(kCopyOut, node), next);
  }
}

void NodesModel::SendItem(const State& s, int node, Emit emit) const {
  const int other = 1 - node;
  const bool owes = s.filled[node] > s.acked[node];
  if (owes && s.resend[node] != 0 && s.linked != 0 && s.put[node] == 0 && s.arrived[node] == 0) {
    State next = s;
    next.resend[node] = 0;
    next.put[node] = 1;
    // The same bytes over themselves are never seen torn.
    if (s.exchange[other][node] != s.exchange[node][node]) next.exchange[other][node] = kTorn;
    emit(Code(kPutBegin, node), next);
  }
  if (s.put[node] == 1) {
    State next = s;
    next.put[node] = 0;
    next.exchange[other][node] = s.exchange[node][node];
    next.arrived[node] = s.filled[node];
    emit(Code(kPutEnd, node, s.filled[node]), next);
  }
  if (s.late[node] != 0) {
    State next = s;
    next.exchange[other][node] = s.late_value[node];
    next.late[node] = next.late_value[node] = 0;
    emit(Code(kLatePut, node), next);
  }
  if (s.ack[node] != 0) {
    State next = s;
    if (s.ack[node] > s.acked[node]) next.acked[node] = s.ack[node];
    next.ack[node] = 0;
    emit(Code(kTakeAck, node), next);
  }
}

// The item that the other node owns, at `node`.
void NodesModel::OtherItem(const State& s, int node, Emit emit) const {
  const int item = 1 - node, step = s.verdict_step[node];
  if (s.arrived[item] != 0) {
    State next = s;
    next.arrived[item] = 0;
    if (s.arrived[item] > s.landed[node]) next.landed[node] = s.arrived[item];
    if (s.ready[node][item] >= s.arrived[item]) next.ack[item] = s.arrived[item];
    emit(Code(kTakeArrived, node), next);
  }
  if (Running(s, node) && s.verdict_go[node] != 0 && s.landed[node] == step &&
      s.ready[node][item] < step && s.copying[node] == 0) {
    State next = s;
    next.copying[node] = 1;
    next.parameter[node][item] = kTorn;
    emit(Code(kCopyBegin, node, item), next);
  } else if (s.copying[node] == 1) {
    State next = s;
    next.copying[node] = 0;
    next.parameter[node][item] = s.exchange[node][item];
    next.ready[node][item] = static_cast<uint8_t>(step);
    // Without a link the put that a new one brings is acknowledged.
    if (s.linked != 0) next.ack[item] = static_cast<uint8_t>(step);
    emit(Code(kCopyEnd, node, item), next);
  }
}

void NodesModel::TellActions(const State& s, int node, Emit emit) const {
  const uint8_t step = s.verdict_step[node];
  const bool go = s.verdict_go[node] != 0;
  const bool all = !go || (s.ready[node][0] >= step && s.ready[node][1] >= step);
  if (s.over[node] >= step || !all) return;
  State next = s;
  next.taken[node] = next.over[node] = step;
  emit(Code(kStepOver, node, step), next);
}

// Frames that go, and what is said again because of that.
void NodesModel::Losses(const State& s, Emit emit) const {
  if (s.linked == 0) {
    State next = s;
    next.linked = 1;
    next.tell = 1;
    if (options_.planted != PlantedInNodes::kVoteOnce) next.vote_sent = 0;
    for (int node = 0; node < kNodes; ++node) {
      if (options_.planted != PlantedInNodes::kForgetOnReconnect) next.resend[node] = 1;
      if (options_.planted == PlantedInNodes::kLatePutsLand) continue;
      next.late[node] = next.late_value[node] = 0;
    }
    emit(Code(kLink), next);
    return;
  }
  const auto lose = [&](uint8_t frame, auto change, int kind, int node) {
    if (frame == 0 || s.disturbances_left == 0) return;
    State next = s;
    next.disturbances_left--;
    change(&next);
    emit(Code(kLoseFrame, kind, node), next);
  };
  lose(
      s.vote, [](State* n) { n->vote = n->vote_value = 0, n->overdue[kNodes] = 1; }, 0, 0);
  lose(
      s.verdict, [](State* n) { n->verdict = n->verdict_value = 0, n->overdue[kNodes] = 1; }, 1, 0);
  for (int node = 0; node < kNodes; ++node) {
    lose(
        s.arrived[node], [node](State* n) { n->arrived[node] = 0, n->overdue[node] = 1; }, 2, node);
    lose(
        s.ack[node], [node](State* n) { n->ack[node] = 0, n->overdue[node] = 1; }, 3, node);
    const bool waits = s.filled[node] > s.acked[node] && s.resend[node] == 0 && s.put[node] == 0 &&
                       s.arrived[node] == 0;
    Deadline(s, node, waits, emit);
  }
  const bool waits = s.vote_sent != 0 && s.vote == 0;
  if (options_.planted != PlantedInNodes::kVoteOnce) Deadline(s, kNodes, waits, emit);
}

// No answer has come in time: either it was lost, or it is only late.
void NodesModel::Deadline(const State& s, int whose, bool waits, Emit emit) const {
  if (!waits || (s.overdue[whose] == 0 && s.disturbances_left == 0)) return;
  State next = s;
  if (s.overdue[whose] != 0) {
    next.overdue[whose] = 0;
  } else {
    next.disturbances_left--;
  }
  if (whose == kNodes) {
    next.vote_sent = 0;
  } else {
    next.resend[whose] = 1;
  }
  emit(Code(s.overdue[whose] != 0 ? kDeadline : kAgain, whose), next);
}

void NodesModel::Crash(const State& s, int node, Emit emit) const {
  if (s.crashes_left == 0) return;
  State next = s;
  next.crashes_left--;
  next.measured[node] = next.landed[node] = next.resend[node] = next.copying[node] = 0;
  if (s.put[node] != 0) {
    next.late[node] = 1;
    next.late_value[node] = s.exchange[node][node];
  }
  if (node == kChief) {
    next.voted = next.deciding = next.tell = 0;
  } else {
    next.accepted = next.vote_sent = 0;
  }
  // The other side sees its connection end, and what was on the way is gone.
  next.linked = next.vote = next.vote_value = next.verdict = next.verdict_value = 0;
  for (int n = 0; n < kNodes; ++n) next.put[n] = next.arrived[n] = next.ack[n] = 0;
  for (uint8_t& overdue : next.overdue) overdue = 0;
  emit(Code(kCrash, node), next);
}

std::string NodesModel::Violation(const State& s) const {
  for (int node = 0; node < kNodes; ++node) {
    const int verdict = s.verdict_step[node], last = s.sheet[node];
    if (s.measured[node] == kWrong)
      return absl::StrFormat("node %d measured a gradient that is torn or of another step", node);
    const uint8_t said = s.verdict_go[node] != 0 ? kGo : kVoid;
    if (verdict > 0 && s.outcome[verdict] != said) {
      return absl::StrFormat("step %d is %s on node %d, and was said to be %s", verdict,
                             said == kGo ? "GO" : "VOID", node, said == kGo ? "VOID" : "GO");
    }
    for (int step = 1; step <= kNodeSteps; ++step) {
      if (s.outcome[step] == kVoid && s.word[node] == step)
        return absl::StrFormat("step %d is VOID, and changed the item of node %d", step, node);
    }
    if (s.over[node] == verdict && s.word[node] <= verdict &&
        s.slot[node] != Expected(s, verdict)) {
      return absl::StrFormat("step %d is over on node %d, and the state of its item is %s, not %s",
                             verdict, node, Text(s.slot[node]), Text(Expected(s, verdict)));
    }
    for (int item = 0; item < kNodes; ++item) {
      // The rank's own, from the moment it is told so to the verdict of the next step.
      const bool told = s.over[node] == last || (last > 0 && s.ready[node][item] == last);
      if (!told && verdict >= last) continue;
      const Value expected = Expected(s, told ? last : last - 1);
      if (s.parameter[node][item] != expected) {
        return absl::StrFormat("after step %d the rank of node %d holds %s of item %d, not %s",
                               last, node, Text(s.parameter[node][item]), item, Text(expected));
      }
    }
  }
  return "";
}

bool NodesModel::Done(const State& s) const {
  return s.over[0] == kNodeSteps && s.over[1] == kNodeSteps;
}

std::string NodesModel::Name(uint16_t action) const {
  const int a = action >> 4 & 15, b = action & 15;
  const char* const outcome = b == kGo ? "GO" : "VOID";
  switch (static_cast<Action>(action >> 8)) {
    case kGradient:
      return absl::StrFormat("rank %d writes its gradient", a);
    case kFillSheet:
      return absl::StrFormat("rank %d fills its sheet", a);
    case kMeasure:
      return absl::StrFormat("node %d measures its item", a);
    case kSendVote:
      return absl::StrFormat("node 1 votes on step %d", a);
    case kTakeVote:
      return absl::StrFormat("the chief takes the vote on step %d", a);
    case kJudge:
      return absl::StrFormat("the chief's verdict of step %d: %s", a, outcome);
    case kJournalLate:
      return absl::StrFormat("only now the verdict of step %d is journaled", a);
    case kTell:
      return absl::StrFormat("the chief tells the verdict of step %d: %s", a, outcome);
    case kTakeVerdict:
      return absl::StrFormat("node 1 takes the verdict of step %d", a);
    case kStageAndFlip:
      return absl::StrFormat("node %d stages and flips its item to step %d", a, b);
    case kCopyBegin:
      return absl::StrFormat("node %d copies out half of item %d", a, b);
    case kCopyEnd:
      return absl::StrFormat("node %d copies out the rest of item %d; parameter_ready", a, b);
    case kCopyOut:
      return absl::StrFormat("node %d copies its own item out; parameter_ready", a);
    case kFill:
      return absl::StrFormat("node %d copies its item into its exchange slab", a);
    case kPutBegin:
      return absl::StrFormat("half of node %d's put", a);
    case kPutEnd:
      return absl::StrFormat("the rest of node %d's put; it says that step %d is there", a, b);
    case kLatePut:
      return absl::StrFormat("a put of node %d's dead stepper lands", a);
    case kTakeArrived:
      return absl::StrFormat("node %d hears that the other item is there", a);
    case kTakeAck:
      return absl::StrFormat("node %d hears the acknowledgement", a);
    case kStepOver:
      return absl::StrFormat("step_over of step %d on node %d", b, a);
    case kDeadline:
      return a < kNodes ? absl::StrFormat("node %d's deadline: it puts again", a)
                        : "node 1's deadline: it votes again";
    case kAgain:
      return a < kNodes ? absl::StrFormat("node %d puts again, without need", a)
                        : "node 1 votes again, without need";
    case kLoseFrame:
      return absl::StrFormat("a frame is lost (kind %d, node %d)", a, b);
    case kLink:
      return "the nodes are linked again";
    case kCrash:
      return absl::StrFormat("the stepper of node %d dies; a successor starts", a);
  }
  return "?";
}

}  // namespace muond::simulation
