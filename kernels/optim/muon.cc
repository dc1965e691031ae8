#include "kernels/optim/muon.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

constexpr uint64_t kPartAlignment = 256;
uint64_t Aligned(uint64_t bytes) {
  return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

int64_t DirectionLd(int64_t cols) { return (cols + 15) / 16 * 16; }

Matrix DirectionOf(const MuonItem& item, DType dtype, void* place) {
  return {place, item.rows, item.cols, DirectionLd(item.cols), dtype};
}

uint64_t DirectionBytes(const MuonItem& item, DType dtype) {
  return Aligned(static_cast<uint64_t>(item.rows) * static_cast<uint64_t>(DirectionLd(item.cols)) *
                 SizeOf(dtype));
}

// Direction, norm, and Newton-Schulz's own.
uint64_t ItemBytes(const Ops& ops, const MuonItem& item) {
  const NewtonSchulzTask task{DirectionOf(item, ops.iterate_dtype(), nullptr), nullptr, item.table};
  return DirectionBytes(item, ops.iterate_dtype()) + Aligned(sizeof(double)) +
         NewtonSchulzWorkspaceBytes(ops, {&task, 1});
}

bool IsEmpty(const MuonItem& item) { return item.rows == 0 || item.cols == 0; }

// Calls `round(first, count, bytes)` for the longest runs of items that fit `limit_bytes`; a larger item is a run alone.
template <typename Round>
void ForRounds(const Ops& ops, absl::Span<const MuonItem> items, uint64_t limit_bytes,
               Round round) {
  size_t first = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const uint64_t more = IsEmpty(items[i]) ? 0 : ItemBytes(ops, items[i]);
    if (i > first && bytes + more > limit_bytes) {
      round(first, i - first, bytes);
      first = i;
      bytes = 0;
    }
    bytes += more;
  }
  if (first < items.size()) round(first, items.size() - first, bytes);
}

// What a round is put together in. Kept from call to call by every thread that makes any: tasks are assigned to those of an
// earlier round, so that a thread that repeats a list allocates nothing.
struct RoundLists {
  std::vector<DirectionTask> directions;
  std::vector<NewtonSchulzTask> tasks;
  std::vector<Matrix> updates;
  std::vector<ApplyTask> applies;
};

void Round(Ops& ops, Stream& stream, absl::Span<const MuonItem> items, void* workspace) {
  thread_local RoundLists lists;
  const DType dtype = ops.iterate_dtype();
  char* next = static_cast<char*>(workspace);
  if (lists.directions.size() < items.size()) lists.directions.resize(items.size());
  if (lists.applies.size() < items.size()) lists.applies.resize(items.size());
  lists.tasks.clear();
  size_t count = 0;
  for (const MuonItem& item : items) {
    if (IsEmpty(item)) continue;
    auto* norm = reinterpret_cast<double*>(next);
    next += Aligned(sizeof(double));
    const Matrix direction = DirectionOf(item, dtype, next);
    next += DirectionBytes(item, dtype);
    DirectionTask& task = lists.directions[count++];
    task.rows = item.rows;
    task.cols = item.cols;
    task.gradient = item.gradient;
    task.momentum_in = item.momentum_in;
    task.momentum_out = item.momentum_out;
    task.direction = direction;
    task.direction_norm = norm;
    task.scalars = item.scalars;
    lists.tasks.push_back({direction, norm, item.table});
  }
  ops.Direction(stream, absl::MakeConstSpan(lists.directions).first(count));
  NewtonSchulz(ops, stream, lists.tasks, next, &lists.updates);
  count = 0;
  for (const MuonItem& item : items) {
    if (IsEmpty(item)) continue;
    ApplyTask& task = lists.applies[count];
    task.rows = item.rows;
    task.cols = item.cols;
    task.parameter_in = item.parameter_in;
    task.parameter_out = item.parameter_out;
    task.update = lists.updates[count++];
    task.scalars = item.scalars;
  }
  ops.Apply(stream, absl::MakeConstSpan(lists.applies).first(count));
}

}  // namespace

double UpdateScaleFactor(UpdateScale scale, int64_t rows, int64_t cols) {
  const double m = static_cast<double>(rows);
  const double n = static_cast<double>(cols);
  switch (scale) {
    case UpdateScale::kOriginal:
      return std::sqrt(std::max(1.0, m / n));
    case UpdateScale::kMatchRmsAdamW:
      return 0.2 * std::sqrt(std::max(m, n));
    case UpdateScale::kSqrtRatio:
      return std::sqrt(m / n);
    case UpdateScale::kSqrtMax:
      return std::sqrt(std::max(m, n));
    case UpdateScale::kNone:
      return 1;
  }
  __builtin_unreachable();
}

uint64_t MuonWorkspaceBytes(const Ops& ops, absl::Span<const MuonItem> items,
                            uint64_t limit_bytes) {
  uint64_t needed = 0;
  ForRounds(ops, items, std::min(limit_bytes, ops.preferred_round_bytes()),
            [&](size_t, size_t, uint64_t bytes) { needed = std::max(needed, bytes); });
  return needed;
}

absl::Status MuonStep(Ops& ops, Stream& stream, absl::Span<const MuonItem> items, void* workspace,
                      uint64_t workspace_bytes) {
  for (const MuonItem& item : items) {
    const uint64_t needed = IsEmpty(item) ? 0 : ItemBytes(ops, item);
    if (needed > workspace_bytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a %d x %d matrix needs %d bytes of workspace, %d are given", item.rows,
                          item.cols, needed, workspace_bytes));
    }
  }
  ForRounds(ops, items, std::min(workspace_bytes, ops.preferred_round_bytes()),
            [&](size_t first, size_t count, uint64_t) {
              Round(ops, stream, items.subspan(first, count), workspace);
            });
  return absl::OkStatus();
}

}  // namespace muond
