#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/capi/engine.h"

namespace muond {
namespace {

constexpr uint64_t kAlignment = 256;
uint64_t Aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
int64_t DirectionLd(int64_t cols) { return (cols + 15) / 16 * 16; }

uint64_t DirectionBytes(const Matrix& in, DType dtype) {
  return Aligned(static_cast<uint64_t>(in.rows) * static_cast<uint64_t>(DirectionLd(in.cols)) *
                 SizeOf(dtype));
}

uint64_t ItemBytes(const Ops& ops, const OrthogonalizeItem& item, const CoefficientTable& table) {
  if (item.in.rows == 0 || item.in.cols == 0) return 0;
  const DType dtype = ops.iterate_dtype();
  const NewtonSchulzTask task{
      {nullptr, item.in.rows, item.in.cols, DirectionLd(item.in.cols), dtype}, nullptr, &table};
  return kAlignment + DirectionBytes(item.in, dtype) + NewtonSchulzWorkspaceBytes(ops, {&task, 1});
}

// Calls `round(first, count, bytes)` for the longest runs that fit; a larger item is a run alone.
template <typename Round>
void ForRounds(const Ops& ops, absl::Span<const OrthogonalizeItem> items,
               const CoefficientTable& table, uint64_t limit_bytes, Round round) {
  size_t first = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const uint64_t more = ItemBytes(ops, items[i], table);
    if (i > first && bytes + more > limit_bytes) {
      round(first, i - first, bytes);
      first = i;
      bytes = 0;
    }
    bytes += more;
  }
  if (first < items.size()) round(first, items.size() - first, bytes);
}

void Round(Ops& ops, Stream& stream, absl::Span<const OrthogonalizeItem> items,
           const CoefficientTable& table, const MuonScalars* scalars, void* workspace) {
  const DType dtype = ops.iterate_dtype();
  char* next = static_cast<char*>(workspace);
  std::vector<DirectionTask> directions;
  std::vector<NewtonSchulzTask> tasks;
  std::vector<const OrthogonalizeItem*> taken;
  for (const OrthogonalizeItem& item : items) {
    if (item.in.rows == 0 || item.in.cols == 0) continue;
    auto* const norm = reinterpret_cast<double*>(next);
    next += kAlignment;
    const Matrix direction{next, item.in.rows, item.in.cols, DirectionLd(item.in.cols), dtype};
    next += DirectionBytes(item.in, dtype);
    const Block block{item.in.data, 0, 0, item.in.rows, item.in.cols, item.in.ld, item.in.dtype, 0};
    directions.push_back(
        {item.in.rows, item.in.cols, {block}, nullptr, nullptr, direction, norm, scalars});
    tasks.push_back({direction, norm, &table});
    taken.push_back(&item);
  }
  ops.Direction(stream, directions);
  const std::vector<Matrix> results = NewtonSchulz(ops, stream, tasks, next);
  std::vector<ScatterTask> scatters;
  for (size_t i = 0; i < taken.size(); ++i) {
    const Matrix& out = taken[i]->out;
    scatters.push_back({results[i], {{out.data, 0, 0, out.rows, out.cols, out.ld, out.dtype, 0}}});
  }
  ops.Scatter(stream, scatters);
}

}  // namespace

uint64_t OrthogonalizeWorkspaceBytes(const Ops& ops, absl::Span<const OrthogonalizeItem> items,
                                     const CoefficientTable& table, uint64_t limit_bytes) {
  uint64_t needed = 0;
  ForRounds(ops, items, table, std::min(limit_bytes, ops.preferred_round_bytes()),
            [&](size_t, size_t, uint64_t bytes) { needed = std::max(needed, bytes); });
  return needed;
}

absl::Status Orthogonalize(Ops& ops, Stream& stream, absl::Span<const OrthogonalizeItem> items,
                           const CoefficientTable& table, const MuonScalars* scalars,
                           void* workspace, uint64_t bytes) {
  for (const OrthogonalizeItem& item : items) {
    if (const uint64_t needed = ItemBytes(ops, item, table); needed > bytes) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a %d x %d matrix needs %d bytes of workspace, %d are given",
                          item.in.rows, item.in.cols, needed, bytes));
    }
  }
  ForRounds(ops, items, table, std::min(bytes, ops.preferred_round_bytes()),
            [&](size_t first, size_t count, uint64_t) {
              Round(ops, stream, items.subspan(first, count), table, scalars, workspace);
            });
  return absl::OkStatus();
}

}  // namespace muond
