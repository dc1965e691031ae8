#include "server/gather/verdict.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace muond {
namespace {

bool SameBits(double x, double y) {
  return std::bit_cast<uint64_t>(x) == std::bit_cast<uint64_t>(y);
}

bool HasGradient(const VerdictInput& input, uint32_t rank, uint32_t tensor) {
  return input.page->present(rank, input.step)[tensor / 64] >> (tensor % 64) & 1;
}

Verdict Void(VoidReason reason, uint32_t detail, std::string text) {
  Verdict verdict;
  verdict.reason = reason;
  verdict.detail = detail;
  verdict.text = std::move(text);
  return verdict;
}

struct NamedScalar {
  const char* name;
  double GroupScalars::*value;
};
constexpr NamedScalar kScalars[] = {
    {"lr", &GroupScalars::lr},
    {"weight_decay", &GroupScalars::weight_decay},
    {"momentum", &GroupScalars::momentum},
    {"eps", &GroupScalars::eps},
    {"beta1", &GroupScalars::beta1},
    {"beta2", &GroupScalars::beta2},
};

// Compares rank `rank`'s sheet with rank 0's.
bool SheetEqual(const VerdictInput& input, uint32_t rank, Verdict* verdict) {
  const SheetHeader& first = input.page->sheet(0, input.step);
  const SheetHeader& other = input.page->sheet(rank, input.step);
  const auto differ = [&](uint32_t field, const std::string& name, double a, double b) {
    *verdict = Void(VoidReason::kSheetsDiffer, field,
                    absl::StrFormat("step %d: ranks 0 and %d disagree on %s: %.17g against %.17g",
                                    input.step, rank, name, a, b));
    return false;
  };
  if (!SameBits(first.loss_scale, other.loss_scale)) {
    return differ(static_cast<uint32_t>(SheetField::kLossScale), "loss_scale", first.loss_scale,
                  other.loss_scale);
  }
  if (!SameBits(first.clip_norm, other.clip_norm)) {
    return differ(static_cast<uint32_t>(SheetField::kClipNorm), "clip_norm", first.clip_norm,
                  other.clip_norm);
  }
  const GroupScalars* a = input.page->groups(0, input.step);
  const GroupScalars* b = input.page->groups(rank, input.step);
  for (uint32_t group = 0; group < input.groups; ++group) {
    const uint32_t field = static_cast<uint32_t>(SheetField::kGroupScalars) + 8 * group;
    for (uint32_t i = 0; i < std::size(kScalars); ++i) {
      const double x = a[group].*kScalars[i].value, y = b[group].*kScalars[i].value;
      if (!SameBits(x, y))
        return differ(field + i, absl::StrFormat("group %d %s", group, kScalars[i].name), x, y);
    }
    if (a[group].nesterov != b[group].nesterov) {
      return differ(field + 6, absl::StrFormat("group %d nesterov", group),
                    static_cast<double>(a[group].nesterov), static_cast<double>(b[group].nesterov));
    }
  }
  return true;
}

}  // namespace

double ClipFactor(double clip_norm, double norm) {
  if (clip_norm <= 0) return 1;
  const double factor = clip_norm / (norm + 1e-6);
  return factor < 1 ? factor : 1;
}

Verdict RankLost(uint32_t rank, absl::string_view why) {
  return Void(VoidReason::kRankLost, rank, absl::StrFormat("rank %d is lost: %s", rank, why));
}

Verdict Recorded(uint64_t step, VoidReason reason, uint32_t detail,
                 absl::Span<const std::string> tensor_names, absl::string_view when) {
  constexpr const char* kReasons[] = {"no reason",
                                      "NaN or Inf in the gradient",
                                      "the loss scaler found Inf",
                                      "ranks disagree on a setting",
                                      "replicas of the gradient differ",
                                      "a rank was lost",
                                      "a gradient on some of its holders only"};
  const size_t index = static_cast<size_t>(reason);
  std::string text =
      absl::StrFormat("step %d: %s", step, kReasons[index < std::size(kReasons) ? index : 0]);
  const bool names_tensor = reason == VoidReason::kNonFinite ||
                            reason == VoidReason::kReplicasDiffer ||
                            reason == VoidReason::kNotWhole;
  if (names_tensor && detail < tensor_names.size())
    text += absl::StrFormat(", tensor '%s'", tensor_names[detail]);
  return Void(reason, detail, absl::StrCat(text, " (", when, ")"));
}

bool Judge::Sheets(const VerdictInput& input, Verdict* verdict) {
  for (uint32_t rank = 0; rank < input.ranks; ++rank) {
    const SheetHeader& sheet = input.page->sheet(rank, input.step);
    if (sheet.epoch != input.epoch) {
      *verdict =
          Void(VoidReason::kSheetsDiffer, static_cast<uint32_t>(SheetField::kEpoch),
               absl::StrFormat("step %d: rank %d filled its sheet under epoch %d, the plan's is %d",
                               input.step, rank, sheet.epoch, input.epoch));
      return false;
    }
    if (sheet.incarnation != input.incarnation) {
      *verdict = Void(
          VoidReason::kSheetsDiffer, static_cast<uint32_t>(SheetField::kIncarnation),
          absl::StrFormat("step %d: rank %d filled its sheet as incarnation %d, the job is at %d",
                          input.step, rank, sheet.incarnation, input.incarnation));
      return false;
    }
    if (rank > 0 && !SheetEqual(input, rank, verdict)) return false;
  }
  const double loss_scale = input.page->sheet(0, input.step).loss_scale;
  if (!(loss_scale > 0) || !std::isfinite(loss_scale)) {
    *verdict = Void(VoidReason::kNonFinite, kNone,
                    absl::StrFormat("step %d: loss scale %g", input.step, loss_scale));
    return false;
  }
  for (uint32_t rank = 0; rank < input.ranks; ++rank) {
    if (input.page->sheet(rank, input.step).found_inf == 0) continue;
    *verdict =
        Void(VoidReason::kFoundInf, kNone,
             absl::StrFormat("step %d: rank %d found an Inf while unscaling", input.step, rank));
    return false;
  }
  return true;
}

bool ReplicaPresent(const VerdictInput& input, uint32_t tensor, const ReplicaBlocks& replica,
                    bool* uniform) {
  *uniform = true;
  if (replica.blocks.empty()) return true;
  const bool present = HasGradient(input, replica.blocks.front().rank, tensor);
  for (const HeldBlock& block : replica.blocks) {
    if (HasGradient(input, block.rank, tensor) != present) *uniform = false;
  }
  return present;
}

bool Judge::Presence(const VerdictInput& input, std::vector<uint8_t>* presence, Verdict* verdict) {
  presence->assign(input.tensors.size(), kAbsent);
  for (uint32_t tensor = 0; tensor < input.tensors.size(); ++tensor) {
    const GatheredTensor& gathered = input.tensors[tensor];
    size_t present = 0;
    bool uniform = true;
    for (const ReplicaBlocks& replica : gathered.replicas) {
      bool whole = true;
      if (ReplicaPresent(input, tensor, replica, &whole)) ++present;
      uniform = uniform && whole;
    }
    const bool all_or_none = present == 0 || present == gathered.replicas.size();
    if (!uniform || (gathered.same && !all_or_none)) {
      *verdict =
          Void(VoidReason::kNotWhole, tensor,
               absl::StrFormat("step %d: tensor '%s' has a gradient on some of its holders only",
                               input.step, input.tensor_names[tensor]));
      return false;
    }
    (*presence)[tensor] = present == 0 ? kAbsent : all_or_none ? kPresent : kPartlyPresent;
  }
  return true;
}

namespace {

bool DigestsAgree(const VerdictInput& input, uint32_t tensor, Verdict* verdict) {
  const GatheredTensor& gathered = input.tensors[tensor];
  const ReplicaBlocks& first = gathered.replicas.front();
  for (size_t r = 1; r < gathered.replicas.size(); ++r) {
    const ReplicaBlocks& other = gathered.replicas[r];
    for (size_t i = 0; i < first.blocks.size(); ++i) {
      const HeldBlock& a = first.blocks[i];
      const HeldBlock& b = other.blocks[i];
      const uint64_t x = input.page->digests(a.rank, input.step)[a.block];
      const uint64_t y = input.page->digests(b.rank, input.step)[b.block];
      if (x == y) continue;
      *verdict =
          Void(VoidReason::kReplicasDiffer, tensor,
               absl::StrFormat(
                   "step %d: tensor '%s': ranks %d and %d hold different gradients, declared equal "
                   "(digests %016x and %016x)",
                   input.step, input.tensor_names[tensor], a.rank, b.rank, x, y));
      return false;
    }
  }
  return true;
}

}  // namespace

Verdict Judge::Decide(const VerdictInput& input, absl::Span<const uint8_t> presence) {
  Verdict verdict;
  for (uint32_t tensor = 0; tensor < input.tensors.size(); ++tensor) {
    if (presence[tensor] == kAbsent || !input.tensors[tensor].same) continue;
    if (!DigestsAgree(input, tensor, &verdict)) return verdict;
  }
  const MeasuredRun* worst = nullptr;
  uint64_t bad = 0, elements = 0;
  for (const MeasuredRun& run : input.runs) {
    if (presence[run.tensor] == kAbsent || run.measurement->non_finite == 0) continue;
    if (worst == nullptr || run.tensor < worst->tensor) {
      worst = &run;
      bad = elements = 0;
    }
    if (run.tensor == worst->tensor) {
      bad += run.measurement->non_finite;
      elements += run.elements;
    }
  }
  if (worst != nullptr) {
    return Void(VoidReason::kNonFinite, worst->tensor,
                absl::StrFormat("step %d: tensor '%s' has %d NaN or Inf gradients (of %d in the "
                                "matrices that hold them)",
                                input.step, input.tensor_names[worst->tensor], bad, elements));
  }
  verdict.go = true;
  const SheetHeader& sheet = input.page->sheet(0, input.step);
  if (sheet.clip_norm <= 0) return verdict;
  // Tensors of one divisor are summed exactly, then the few sums in order of their divisors: no layout shows in the bits.
  absl::InlinedVector<std::pair<double, BinnedSum>, 4> sums;  // rising; a job has one or two
  for (const MeasuredRun& run : input.runs) {
    if (presence[run.tensor] == kAbsent) continue;
    const double divisor = input.tensors[run.tensor].divisor;
    auto at = std::find_if(sums.begin(), sums.end(),
                           [divisor](const auto& sum) { return sum.first >= divisor; });
    if (at == sums.end() || at->first != divisor) at = sums.insert(at, {divisor, BinnedSum{}});
    at->second.Add(run.measurement->sum_of_squares);
  }
  double squares = 0;
  for (auto& [divisor, sum] : sums) {
    sum.Normalize();
    squares += sum.Value() / (divisor * divisor);
  }
  verdict.norm = std::sqrt(squares) / sheet.loss_scale;
  verdict.clip_factor = ClipFactor(sheet.clip_norm, verdict.norm);
  return verdict;
}

}  // namespace muond
