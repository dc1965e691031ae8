#include "server/session/gate.h"

namespace muond {

GateDecision Admit(const GateView& view, const Frame& frame) {
  GateDecision decision;
  decision.expected_step = view.verdict_step + 1;
  const auto refuse = [&decision](RefusedReason reason) {
    decision.answer = GateAnswer::kRefuse;
    decision.reason = reason;
    return decision;
  };
  switch (frame.type) {
    case FrameType::kPing:
      return decision;
    case FrameType::kHello:
    case FrameType::kReady:
    case FrameType::kStep:
    case FrameType::kBye:
      break;
    default:
      decision.answer = GateAnswer::kIgnore;
      return decision;
  }
  const bool known = view.known && frame.job == view.job && frame.rank == view.rank;
  if (frame.type == FrameType::kBye) {
    // Often said after the detach: nobody waits for an answer.
    decision.answer = known ? GateAnswer::kTake : GateAnswer::kIgnore;
    return decision;
  }
  if (!known) return refuse(RefusedReason::kUnknownSession);
  if (frame.incarnation != view.incarnation) return refuse(RefusedReason::kStaleIncarnation);
  if (frame.epoch != view.epoch) return refuse(RefusedReason::kStaleEpoch);
  if (frame.type == FrameType::kHello) return decision;
  if (frame.type == FrameType::kReady && frame.bucket >= view.buckets)
    return refuse(RefusedReason::kBadBucket);
  if (frame.step == 0) return refuse(RefusedReason::kStepGap);
  if (frame.step <= view.verdict_step) {
    const bool over = frame.step < view.verdict_step || view.verdict_over;
    decision.answer = over ? GateAnswer::kReplay : GateAnswer::kHold;
    return decision;
  }
  if (frame.step > view.verdict_step + 1) return refuse(RefusedReason::kStepGap);
  return decision;
}

}  // namespace muond
