// NodesModel: the step of a job over two daemons, as a state machine small enough to be explored in full: what server/README.md
// ("A step over several daemons") adds to the step that step_model.h explores within one.
//
// Node 0 is the chief. Each node has one rank and owns one item; gradients are reduced, so an owner reads its own node's rank,
// and only votes, verdicts and parameters cross. Modelled: the kept journal, word, exchange slab and cells of each node; the
// memory of each stepper, which a crash clears between any two writes; frames that are lost, repeated or late; a put that is
// seen half done, or that lands after its sender died; gradients and copy-outs in two halves; NaN; a verdict VOID that the chief
// may give at any moment before GO (a rank died). Not modelled: what step_model.h has (slots, sheets, edits, several buckets).
//
// A value is the list of what was done to it, one digit (base 3) a step.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"

namespace muond::simulation {

inline constexpr int kNodes = 2, kNodeSteps = 2;

// Errors that a test plants to see that the explorer finds them.
enum class PlantedInNodes : uint8_t {
  kNothing,
  kTellBeforeJournal,      // the chief tells its verdict before it is in its journal
  kFlipBeforeJournal,      // a member carries a GO out before it is in its own journal
  kFlipBeforeVerdict,      // an owner flips what it has measured, without waiting for the chief
  kVerdictWithoutMembers,  // the chief decides when its own part is measured
  kVoteOnce,               // a member whose vote was lost does not repeat it
  kForgetOnReconnect,  // an owner does not put again what nobody acknowledged when the link is new
  kLatePutsLand,       // a put of a dead stepper lands although its node has a new link
};

struct NodesOptions {
  int crashes = 2;         // of either stepper, in all
  bool nan = false;        // node 1's gradient of step 1 holds a NaN
  bool rank_dies = false;  // the chief may void a step at any moment before its GO, once
  int disturbances = 1;    // frames that are lost, or sent once more without need
  PlantedInNodes planted = PlantedInNodes::kNothing;
};

class NodesModel {
 public:
  using Value = uint8_t;
  static constexpr Value kTorn = 0xff;

  struct State {
    // Kept by each node's keeper.
    uint8_t verdict_step[kNodes], verdict_go[kNodes];
    uint8_t word[kNodes];  // of the node's own item
    Value slot[kNodes], place[kNodes];
    Value exchange[kNodes][kNodes];  // node, item: what is sent, and what has landed
    uint8_t filled[kNodes];          // own item: the step whose parameter the exchange slab holds
    uint8_t acked[kNodes];           // own item: the step that the other node has acknowledged
    Value parameter[kNodes][kNodes];
    uint8_t ready[kNodes][kNodes], taken[kNodes], over[kNodes];
    // The ranks' own.
    uint8_t sheet[kNodes], gradient[kNodes];  // 1: that of step sheet + 1 is written
    // The steppers' memory.
    uint8_t measured[kNodes];  // 0 no, 1 finite, 2 NaN, 3 torn or of another step
    uint8_t voted;             // the chief's: the member's vote, as `measured`
    uint8_t vote_sent;         // the member's, and not answered yet
    uint8_t deciding;          // planted only: told, not in the journal yet; 1 VOID, 2 GO
    uint8_t accepted;          // planted only: the GO that the member carries out
    uint8_t tell;              // the chief owes the member its newest verdict
    uint8_t copying[kNodes];   // of the other's item: half done
    uint8_t landed[kNodes];    // at node n: the step of the other's item, said by a frame
    uint8_t resend[kNodes];    // put whatever is not acknowledged
    uint8_t put[kNodes];       // of the own item: half done
    // On the way.
    uint8_t linked;
    uint8_t vote, vote_value;        // step
    uint8_t verdict, verdict_value;  // step; 1 VOID, 2 GO
    uint8_t arrived[kNodes];         // "the parameter of this node's item is there": step
    uint8_t ack[kNodes];             // to node n: step
    uint8_t overdue[kNodes + 1];  // a frame of this node's item was lost; [kNodes]: vote or verdict
    uint8_t late[kNodes];         // a put of node n's dead stepper is still in the pipe
    Value late_value[kNodes];
    // What must hold whatever happens: the outcome of each step as it was first said.
    uint8_t outcome[kNodeSteps + 1];
    uint8_t crashes_left, voids_left, disturbances_left;
  };
  using Emit = absl::FunctionRef<void(uint16_t, const State&)>;

  explicit NodesModel(const NodesOptions& options) : options_(options) {}

  State Initial() const;
  void Successors(const State& state, Emit emit) const;
  std::string Violation(const State& state) const;
  bool Done(const State& state) const;
  std::string Name(uint16_t action) const;

 private:
  enum Action : uint8_t;

  bool Running(const State& s, int node) const;
  Value Gradient(const State& s, int node) const;
  Value Expected(const State& s, int step) const;
  void RankActions(const State& s, int node, Emit emit) const;
  void MeasureAndVote(const State& s, int node, Emit emit) const;
  void ChiefActions(const State& s, Emit emit) const;
  void Judge(const State& s, uint8_t outcome, Emit emit) const;
  void MemberActions(const State& s, Emit emit) const;
  void OwnItem(const State& s, int node, Emit emit) const;
  void SendItem(const State& s, int node, Emit emit) const;
  void OtherItem(const State& s, int node, Emit emit) const;
  void TellActions(const State& s, int node, Emit emit) const;
  void Losses(const State& s, Emit emit) const;
  void Deadline(const State& s, int whose, bool waits, Emit emit) const;
  void Crash(const State& s, int node, Emit emit) const;

  NodesOptions options_;
};

}  // namespace muond::simulation
