#include "absl/strings/str_format.h"
#include "client/core/client.h"

namespace muond {

absl::StatusOr<uint64_t> StateBytes(const Manifest& manifest, int32_t tensor, StateField field) {
  if (tensor < 0 || static_cast<size_t>(tensor) >= manifest.tensors.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("state of tensor %d was asked for; the job has %d tensors, counted from 0",
                        tensor, manifest.tensors.size()));
  }
  const TensorSpec& spec = manifest.tensors[tensor];
  const Rule rule = manifest.groups[spec.group].rule;
  bool has_field = false;
  switch (field) {
    case StateField::kMomentum:
      has_field = rule == Rule::kMuon;
      break;
    case StateField::kExpAvg:
    case StateField::kExpAvgSq:
    case StateField::kStep:
      has_field = rule == Rule::kAdamW;
      break;
    case StateField::kParameter:
      has_field = true;
      break;
  }
  if (!has_field) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is stepped by %s, which has no state field %d", spec.name,
                        rule == Rule::kMuon ? "muon" : "adamw", static_cast<int>(field)));
  }
  if (field == StateField::kStep) return sizeof(double);
  return static_cast<uint64_t>(ElementsOf(spec)) * sizeof(float);
}

absl::Status CheckStateBytes(const Manifest& manifest, int32_t tensor, StateField field,
                             uint64_t size_bytes) {
  absl::StatusOr<uint64_t> wanted = StateBytes(manifest, tensor, field);
  if (!wanted.ok()) return wanted.status();
  if (*wanted == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("state field %d of %s has %d bytes, %d were given", static_cast<int>(field),
                      manifest.tensors[tensor].name, *wanted, size_bytes));
}

}  // namespace muond
