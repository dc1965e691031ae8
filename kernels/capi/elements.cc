// Measure and AdamW of the C interface: one pass over the elements of a list each.
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/capi/abi.h"
#include "kernels/ops/ops.h"

namespace {

using muond::AdamWScalars;
using muond::AdamWTask;
using muond::Block;
using muond::Matrix;
using muond::Measurement;
using muond::MeasureTask;
using muond::capi::Answer;
using muond::capi::MatrixOf;
using muond::capi::Refuse;

static_assert(sizeof(Measurement) == MUOND_KERNELS_MEASUREMENT_BYTES);
static_assert(sizeof(AdamWScalars) <= MUOND_KERNELS_ADAMW_WORKSPACE_BYTES);

Block Whole(const Matrix& matrix) {
  return {matrix.data, 0, 0, matrix.rows, matrix.cols, matrix.ld, matrix.dtype, 0};
}

absl::StatusOr<std::vector<AdamWTask>> TasksOf(const muond_kernels_adamw_item* items,
                                               size_t count) {
  std::vector<AdamWTask> tasks;
  for (size_t i = 0; i < count; ++i) {
    const muond_kernels_adamw_item& item = items[i];
    if (item.struct_size < sizeof(item))
      return absl::InvalidArgumentError("items of an older interface");
    absl::StatusOr<Matrix> g = MatrixOf(item.gradient, "gradient", i);
    if (!g.ok()) return g.status();
    absl::StatusOr<Matrix> p = MatrixOf(item.parameter, "parameter", i);
    if (!p.ok()) return p.status();
    if (g->rows != p->rows || g->cols != p->cols) {
      return absl::InvalidArgumentError(
          absl::StrFormat("item %d: a gradient of %d x %d for a parameter of %d x %d", i, g->rows,
                          g->cols, p->rows, p->cols));
    }
    if (item.exp_avg == nullptr || item.exp_avg_sq == nullptr || item.step == nullptr)
      return absl::InvalidArgumentError(absl::StrFormat("item %d has no state", i));
    AdamWTask task;
    task.rows = p->rows;
    task.cols = p->cols;
    task.gradient = {Whole(*g)};
    task.parameter_in = {Whole(*p)};
    task.parameter_out = *p;
    task.exp_avg_in = task.exp_avg_out = item.exp_avg;
    task.exp_avg_sq_in = task.exp_avg_sq_out = item.exp_avg_sq;
    task.step_in = task.step_out = item.step;
    tasks.push_back(std::move(task));
  }
  return tasks;
}

}  // namespace

extern "C" {

muond_kernels_status muond_kernels_measure(muond_kernels* engine, void* cuda_stream,
                                           const muond_kernels_matrix* matrices, size_t count,
                                           int32_t want_norm, void* measurements) {
  auto* const results = static_cast<Measurement*>(measurements);
  std::vector<MeasureTask> tasks(count);
  for (size_t i = 0; i < count; ++i) {
    absl::StatusOr<Matrix> matrix = MatrixOf(matrices[i], "matrix", i);
    if (!matrix.ok()) return Answer(matrix.status());
    tasks[i].blocks = {Whole(*matrix)};
    tasks[i].rows = matrix->rows;
    tasks[i].cols = matrix->cols;
    tasks[i].want_norm = want_norm != 0;
    tasks[i].result = results + i;
  }
  const std::unique_ptr<muond::Stream> stream = engine->engine->StreamFor(cuda_stream);
  if (stream == nullptr) return Answer(absl::InternalError("no stream"));
  engine->engine->ops().Measure(*stream, tasks);
  return Answer(engine->engine->Finish(*stream));
}

double muond_kernels_measured(const void* measurements, size_t count, uint64_t* non_finite) {
  const auto* const results = static_cast<const Measurement*>(measurements);
  muond::BinnedSum sum;
  for (size_t i = 0; i < count; ++i) {
    non_finite[i] = results[i].non_finite;
    sum.Add(results[i].sum_of_squares);
  }
  sum.Normalize();
  return sum.Value();
}

muond_kernels_status muond_kernels_adamw_step(muond_kernels* engine, void* cuda_stream,
                                              const muond_kernels_adamw_options* options,
                                              const muond_kernels_adamw_item* items, size_t count,
                                              void* workspace, uint64_t bytes) {
  if (options == nullptr || options->struct_size < sizeof(*options))
    return Refuse("options of an AdamW step are missing or of an older interface");
  if (bytes < MUOND_KERNELS_ADAMW_WORKSPACE_BYTES) {
    return Refuse(absl::StrFormat("%d bytes of workspace, %d are needed", bytes,
                                  MUOND_KERNELS_ADAMW_WORKSPACE_BYTES));
  }
  absl::StatusOr<std::vector<AdamWTask>> tasks = TasksOf(items, count);
  if (!tasks.ok()) return Answer(tasks.status());
  auto* const scalars = static_cast<AdamWScalars*>(workspace);
  for (AdamWTask& task : *tasks) task.scalars = scalars;
  const std::unique_ptr<muond::Stream> stream = engine->engine->StreamFor(cuda_stream);
  if (stream == nullptr) return Answer(absl::InternalError("no stream"));
  const AdamWScalars values = {options->lr,    options->weight_decay, options->beta1,
                               options->beta2, options->eps,          options->gradient_scale};
  engine->engine->Put(*stream, scalars, &values, sizeof(values));
  engine->engine->ops().AdamW(*stream, *tasks);
  return Answer(engine->engine->Finish(*stream));
}

}  // extern "C"
