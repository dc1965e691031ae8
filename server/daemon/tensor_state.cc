#include "server/daemon/tensor_state.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

const char* NameOf(StateName field) {
  switch (field) {
    case StateName::kMomentum:
      return "momentum_buffer";
    case StateName::kExpAvg:
      return "exp_avg";
    case StateName::kExpAvgSq:
      return "exp_avg_sq";
    case StateName::kStep:
      return "step";
    case StateName::kParameter:
      return "parameter";
  }
  return "unknown";
}

}  // namespace

TensorState::TensorState(Job& job, std::vector<DeviceRoom>& devices)
    : job_(job), devices_(devices) {}

absl::Status TensorState::CheckHere(int32_t tensor, StateName field) const {
  const JobLayout& layout = job_.layout();
  for (const int32_t item : layout.tensor_items[tensor]) {
    if (field == StateName::kParameter || layout.view.owns(static_cast<uint32_t>(item))) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "tensor '%s' is stepped by daemon %s: its state is not read or written from here yet",
        layout.tensor_names[tensor],
        job_.record().members.members[layout.view.owner_of_item[item]].daemon));
  }
  return absl::OkStatus();
}

absl::Status TensorState::Check(int32_t tensor, StateName field) const {
  const Manifest& manifest = *job_.layout().manifest;
  if (tensor < 0 || static_cast<size_t>(tensor) >= manifest.tensors.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tensor %d of %d", tensor, manifest.tensors.size()));
  }
  const bool muon = manifest.groups[manifest.tensors[tensor].group].rule == Rule::kMuon;
  const bool kept = field == StateName::kParameter ||
                    (muon ? field == StateName::kMomentum
                          : field == StateName::kExpAvg || field == StateName::kExpAvgSq ||
                                field == StateName::kStep);
  if (kept) return CheckHere(tensor, field);
  return absl::InvalidArgumentError(
      absl::StrFormat("tensor '%s' is stepped by %s, which keeps no %s",
                      manifest.tensors[tensor].name, muon ? "muon" : "adamw", NameOf(field)));
}

uint64_t TensorState::ElementBytes(int32_t tensor, StateName field) const {
  return field == StateName::kParameter
             ? SizeOf(job_.layout().manifest->tensors[tensor].parameter_type)
             : sizeof(float);
}

absl::StatusOr<uint64_t> TensorState::SizeBytes(int32_t tensor, StateName field) const {
  if (absl::Status status = Check(tensor, field); !status.ok()) return status;
  if (field == StateName::kStep) return sizeof(double);
  return static_cast<uint64_t>(ElementsOf(job_.layout().manifest->tensors[tensor])) *
         ElementBytes(tensor, field);
}

std::vector<TensorState::RunAt> TensorState::RunsOf(int32_t tensor, uint64_t element_bytes) const {
  std::vector<RunAt> runs;
  const JobLayout& layout = job_.layout();
  const uint64_t row_bytes =
      static_cast<uint64_t>(ViewOf(layout.manifest->tensors[tensor]).cols) * element_bytes;
  for (const int32_t item : layout.tensor_items[tensor]) {
    const std::vector<Segment>& segments = layout.plan->items[item].segments;
    for (size_t run = 0; run < segments.size(); ++run) {
      if (segments[run].tensor != tensor) continue;
      runs.push_back(
          {static_cast<uint32_t>(item), run,
           static_cast<uint64_t>(segments[run].row_begin) * row_bytes,
           static_cast<uint64_t>(segments[run].row_end - segments[run].row_begin) * row_bytes});
    }
  }
  std::sort(runs.begin(), runs.end(),
            [](const RunAt& x, const RunAt& y) { return x.begin < y.begin; });
  return runs;
}

char* TensorState::FieldOf(const RunAt& run, StateName field) const {
  const uint32_t slot = job_.word(run.item).slot;
  JobWorks& works = job_.works();
  switch (field) {
    case StateName::kMomentum:
      return reinterpret_cast<char*>(works.momentum(run.item, run.run, slot));
    case StateName::kExpAvg:
      return reinterpret_cast<char*>(works.exp_avg(run.item, run.run, slot));
    case StateName::kExpAvgSq:
      return reinterpret_cast<char*>(works.exp_avg_sq(run.item, run.run, slot));
    default:
      return reinterpret_cast<char*>(works.step_count(run.item, run.run, slot));
  }
}

absl::StatusOr<std::string> TensorState::Read(int32_t tensor, StateName field, uint64_t offset,
                                              uint64_t size_max) {
  const auto total = SizeBytes(tensor, field);
  if (!total.ok()) return total.status();
  if (offset > *total) {
    return absl::InvalidArgumentError(
        absl::StrFormat("offset %d in a field of %d bytes", offset, *total));
  }
  const uint64_t size = std::min(size_max, *total - offset);
  if (size == 0) return std::string();
  if (field == StateName::kParameter) return ReadParameter(tensor, offset, size);
  std::string data(size, '\0');
  if (field == StateName::kStep) {
    // Equal in every run of the tensor.
    const RunAt first = RunsOf(tensor, sizeof(float)).front();
    std::string whole(sizeof(double), '\0');
    Stream& stream = LaneOf(first.item).stream();
    stream.Copy(whole.data(), FieldOf(first, field), whole.size());
    if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
    return whole.substr(offset, size);
  }
  for (const RunAt& run : RunsOf(tensor, ElementBytes(tensor, field))) {
    const uint64_t begin = std::max(run.begin, offset),
                   end = std::min(run.begin + run.bytes, offset + size);
    if (begin >= end) continue;
    Stream& stream = LaneOf(run.item).stream();
    stream.Copy(data.data() + (begin - offset), FieldOf(run, field) + (begin - run.begin),
                end - begin);
    if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
  }
  return data;
}

absl::StatusOr<std::string> TensorState::ReadParameter(int32_t tensor, uint64_t offset,
                                                       uint64_t size) {
  const uint64_t element = ElementBytes(tensor, StateName::kParameter);
  const int64_t cols = ViewOf(job_.layout().manifest->tensors[tensor]).cols;
  const uint64_t row_bytes = static_cast<uint64_t>(cols) * element;
  // Whole runs would be as large as the tensor: rows that the range touches are enough, copied one by one.
  std::string data(size, '\0');
  for (const RunAt& run : RunsOf(tensor, element)) {
    const uint64_t begin = std::max(run.begin, offset),
                   end = std::min(run.begin + run.bytes, offset + size);
    if (begin >= end) continue;
    Stream& stream = LaneOf(run.item).stream();
    for (const Block& block : job_.works().parameter_blocks(run.item, run.run)) {
      for (int64_t row = 0; row < block.rows; ++row) {
        const uint64_t at = run.begin + static_cast<uint64_t>(block.row + row) * row_bytes +
                            static_cast<uint64_t>(block.col) * element;
        const uint64_t from = std::max(at, begin),
                       to = std::min(at + static_cast<uint64_t>(block.cols) * element, end);
        if (from >= to) continue;
        const char* source = static_cast<const char*>(block.data) +
                             static_cast<uint64_t>(row * block.ld) * element + (from - at);
        stream.Copy(data.data() + (from - offset), source, to - from);
      }
    }
    if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
  }
  return data;
}

absl::Status TensorState::Write(int32_t tensor, StateName field, uint64_t offset,
                                absl::string_view data) {
  const auto total = SizeBytes(tensor, field);
  if (!total.ok()) return total.status();
  if (field == StateName::kParameter)
    return absl::InvalidArgumentError("parameters are written by their holders, in their slabs");
  if (offset > *total || data.size() > *total - offset) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%d bytes at offset %d in a field of %d bytes", data.size(), offset, *total));
  }
  for (const RunAt& run : RunsOf(tensor, sizeof(float))) {
    Stream& stream = LaneOf(run.item).stream();
    if (field == StateName::kStep) {
      stream.Copy(FieldOf(run, field) + offset, data.data(), data.size());
    } else {
      const uint64_t begin = std::max(run.begin, offset),
                     end = std::min(run.begin + run.bytes, offset + data.size());
      if (begin >= end) continue;
      stream.Copy(FieldOf(run, field) + (begin - run.begin), data.data() + (begin - offset),
                  end - begin);
    }
    if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace muond
