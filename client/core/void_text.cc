#include "absl/strings/str_format.h"
#include "client/core/daemon_client.h"

namespace muond {
namespace {

std::string TensorName(const Manifest& manifest, uint32_t tensor) {
  if (tensor < manifest.tensors.size()) return manifest.tensors[tensor].name;
  return "a tensor";
}

// A sheet's field by its number: server/gather/verdict.h writes it, proto/wire/README.md lists it.
std::string FieldName(const Manifest& manifest, uint32_t field) {
  constexpr uint32_t kFirstScalar = 16, kScalarsOfGroup = 8;
  constexpr const char* kScalars[kScalarsOfGroup] = {
      "lr", "weight_decay", "momentum", "eps", "beta1", "beta2", "nesterov", "a scalar"};
  constexpr const char* kFields[] = {"a setting", "the epoch", "the incarnation", "the loss scale",
                                     "clip_norm"};
  if (field < std::size(kFields)) return kFields[field];
  const uint32_t group = (field - kFirstScalar) / kScalarsOfGroup;
  if (field < kFirstScalar || group >= manifest.groups.size()) return "a setting";
  return absl::StrFormat("%s of %s", kScalars[(field - kFirstScalar) % kScalarsOfGroup],
                         manifest.groups[group].name);
}

}  // namespace

std::string VoidText(const Manifest& manifest, uint64_t step, VoidReason reason, uint32_t detail) {
  const std::string head = absl::StrFormat("step %d changed nothing: ", step);
  switch (reason) {
    case VoidReason::kNonFinite:
      return absl::StrFormat("%sthe gradient of %s holds NaN or Inf", head,
                             TensorName(manifest, detail));
    case VoidReason::kFoundInf:
      return head + "the loss scaler found Inf";
    case VoidReason::kSheetsDiffer:
      return absl::StrFormat("%sthe %d ranks gave different values for %s", head,
                             manifest.world_size, FieldName(manifest, detail));
    case VoidReason::kReplicasDiffer:
      return absl::StrFormat(
          "%sthe gradient of %s is not the same on the %d ranks that hold it, though it was said "
          "to be reduced",
          head, TensorName(manifest, detail), manifest.world_size);
    case VoidReason::kRankLost:
      return absl::StrFormat("%sanother of the %d ranks died before it was decided", head,
                             manifest.world_size);
    case VoidReason::kNotWhole:
      return absl::StrFormat(
          "%s%s has a gradient on some of the ranks that hold it, and none on others", head,
          TensorName(manifest, detail));
  }
  return head + "the daemon did not tell why (its log does)";
}

}  // namespace muond
