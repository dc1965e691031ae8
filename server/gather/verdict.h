// Verdict: does step S of a job happen, and with which clip factor? A pure function of the ranks' sheets and of what was
// measured. One verdict per (job, incarnation, step); VOID changes no state.
//
// The order of the checks is part of the contract, so that two daemons and a successor say the same: sheets differ, found_inf,
// not whole, replicas differ, not finite; the lowest tensor is named.
// Threads: the StepLoop.   Units: norms are of raw gradients of the job, after division by the loss scale.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/ops/ops.h"
#include "proto/wire/frame.h"
#include "proto/wire/job_page.h"

namespace muond {

// Which field of the sheets differs: the `detail` of kSheetsDiffer. Groups: kGroupScalars + 8 * group + scalar.
enum class SheetField : uint32_t {
  kEpoch = 1,
  kIncarnation = 2,
  kLossScale = 3,
  kClipNorm = 4,
  kGroupScalars = 16
};

// A replica of a tensor: the (rank, block index on that rank) of all its blocks that hold elements.
struct HeldBlock {
  uint32_t rank = 0, block = 0;
};
struct ReplicaBlocks {
  std::vector<HeldBlock> blocks;
};
struct GatheredTensor {
  bool same =
      false;  // replicas are equal: digests are compared block by block (equal rectangles, in equal order)
  double divisor = 1;  // of summed replicas
  std::vector<ReplicaBlocks> replicas;
};
// What was measured: one entry for every run of rows of every item.
struct MeasuredRun {
  uint32_t tensor = 0;
  uint64_t elements = 0;
  const Measurement* measurement = nullptr;
};

struct VerdictInput {
  const JobPage* page = nullptr;
  uint32_t ranks = 0, groups = 0;
  uint64_t step = 0, epoch = 0;
  uint32_t incarnation = 0;
  absl::Span<const GatheredTensor> tensors;
  absl::Span<const std::string> tensor_names;
  absl::Span<const MeasuredRun> runs;
};

struct Verdict {
  bool go = false;
  double clip_factor = 1;  // GO: what gradients are multiplied by, beside divisor and loss scale
  double norm = 0;         // GO with clipping: the norm before it
  VoidReason reason = VoidReason::kNonFinite;  // VOID
  uint32_t detail = kNone;                     // VOID: the tensor or SheetField
  std::string text;  // VOID: what and how much, for log, status and the client
};

inline constexpr uint8_t kAbsent = 0, kPresent = 1, kPartlyPresent = 2;

class Judge {
 public:
  // Fills presence[tensor] from the sheets. kPartlyPresent: some summed replicas have no gradient, which counts as zeros.
  // Returns false, with the verdict, when a replica is present in parts (or an equal replica is absent).
  static bool Presence(const VerdictInput& input, std::vector<uint8_t>* presence, Verdict* verdict);
  // Checks that need no measurement. False: `verdict` is VOID.
  static bool Sheets(const VerdictInput& input, Verdict* verdict);
  // REQUIRES: both before said true, and all runs of present tensors are measured (with norms when the sheets clip).
  static Verdict Decide(const VerdictInput& input, absl::Span<const uint8_t> presence);
};

Verdict RankLost(uint32_t rank, absl::string_view why);
// A VOID of which the journal tells reason and detail alone.
Verdict Recorded(uint64_t step, VoidReason reason, uint32_t detail,
                 absl::Span<const std::string> tensor_names,
                 absl::string_view when = "before the stepper was started again");

// torch.nn.utils.clip_grad_norm_: min(1, clip / (norm + 1e-6)); 1 without clipping (clip 0).
double ClipFactor(double clip_norm, double norm);

// True when the replica's blocks all have (or all lack) a gradient according to the sheets.
bool ReplicaPresent(const VerdictInput& input, uint32_t tensor, const ReplicaBlocks& replica,
                    bool* uniform);

}  // namespace muond
