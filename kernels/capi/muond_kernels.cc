#include "kernels/capi/muond_kernels.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/capi/abi.h"
#include "kernels/capi/engine.h"
#include "kernels/capi/muon_plan.h"

struct muond_kernels_muon_plan {
  std::unique_ptr<muond::MuonPlan> plan;
};

namespace {

using muond::CoefficientTable;
using muond::Matrix;
using muond::MuonItem;
using muond::MuonPlan;
using muond::MuonPlanItem;
using muond::MuonScalars;
using muond::OrthogonalizeItem;
using muond::SharedScalars;
using muond::UpdateScale;
using muond::capi::Aligned;
using muond::capi::Answer;
using muond::capi::MatrixOf;
using muond::capi::Refuse;

absl::StatusOr<CoefficientTable> TableOf(const muond_kernels_table* table) {
  if (table == nullptr || table->struct_size < sizeof(*table)) {
    return absl::InvalidArgumentError("the coefficient table is missing or of an older interface");
  }
  if (table->name != nullptr) return muond::FindCoefficientTable(table->name, table->steps);
  std::vector<muond::Coefficients> rows;
  for (size_t i = 0; i < table->row_count; ++i) {
    rows.push_back({table->rows[3 * i], table->rows[3 * i + 1], table->rows[3 * i + 2]});
  }
  return muond::CustomCoefficientTable(rows, table->steps);
}

// Options of this interface or an older one.
absl::StatusOr<muond_kernels_muon_options> OptionsOf(const muond_kernels_muon_options* options) {
  constexpr size_t kFirst = offsetof(muond_kernels_muon_options, lr_at);  // version 1.0
  if (options == nullptr || options->struct_size < kFirst ||
      options->scale < MUOND_KERNELS_SCALE_ORIGINAL || options->scale > MUOND_KERNELS_SCALE_NONE) {
    return absl::InvalidArgumentError(
        "options of a Muon step are missing, of an older interface, or name no scale");
  }
  muond_kernels_muon_options known = {};
  std::memcpy(&known, options, std::min(options->struct_size, sizeof(known)));
  return known;
}

SharedScalars ScalarsOf(const muond_kernels_muon_options& options) {
  return {.values = {.lr = options.lr,
                     .weight_decay = options.weight_decay,
                     .momentum = options.momentum,
                     .eps = options.eps,
                     .gradient_scale = options.gradient_scale,
                     .nesterov = options.nesterov != 0},
          .lr_at = options.lr_at,
          .gradient_scale_at = options.gradient_scale_at};
}

// Addresses are offsets here, so null is one, too.
absl::StatusOr<std::vector<MuonPlanItem>> PlanItemsOf(const muond_kernels_muon_item* items,
                                                      const uint32_t* gradient_from, size_t count) {
  std::vector<MuonPlanItem> list;
  for (size_t i = 0; i < count; ++i) {
    if (items[i].struct_size < sizeof(items[i]))
      return absl::InvalidArgumentError("items of an older interface");
    absl::StatusOr<Matrix> g = MatrixOf(items[i].gradient, "gradient", i);
    if (!g.ok()) return g.status();
    absl::StatusOr<Matrix> p = MatrixOf(items[i].parameter, "parameter", i);
    if (!p.ok()) return p.status();
    if (g->rows != p->rows || g->cols != p->cols ||
        reinterpret_cast<uintptr_t>(g->data) % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "item %d: a gradient of %d x %d at offset %d for a parameter of %d x %d; offsets are "
          "multiples "
          "of 16",
          i, g->rows, g->cols, reinterpret_cast<uintptr_t>(g->data), p->rows, p->cols));
    }
    list.push_back({*g, gradient_from == nullptr ? 0 : gradient_from[i], *p, items[i].momentum});
  }
  return list;
}

// What the list looks like to the verbs. The caller points the items at the table once the list lies still.
struct MuonList {
  CoefficientTable table;
  std::vector<MuonItem> items;
};

absl::StatusOr<MuonList> ListOf(const muond_kernels_table* table,
                                const muond_kernels_muon_item* items, size_t count) {
  absl::StatusOr<CoefficientTable> found = TableOf(table);
  if (!found.ok()) return found.status();
  MuonList list;
  list.table = *std::move(found);
  for (size_t i = 0; i < count; ++i) {
    if (items[i].struct_size < sizeof(items[i]))
      return absl::InvalidArgumentError("items of an older interface");
    absl::StatusOr<Matrix> g = MatrixOf(items[i].gradient, "gradient", i);
    if (!g.ok()) return g.status();
    absl::StatusOr<Matrix> p = MatrixOf(items[i].parameter, "parameter", i);
    if (!p.ok()) return p.status();
    if (g->rows != p->rows || g->cols != p->cols) {
      return absl::InvalidArgumentError(
          absl::StrFormat("item %d: a gradient of %d x %d for a parameter of %d x %d", i, g->rows,
                          g->cols, p->rows, p->cols));
    }
    MuonItem item;
    item.rows = p->rows;
    item.cols = p->cols;
    item.gradient = {{g->data, 0, 0, g->rows, g->cols, g->ld, g->dtype, 0}};
    item.parameter_in = {{p->data, 0, 0, p->rows, p->cols, p->ld, p->dtype, 0}};
    item.parameter_out = *p;
    item.momentum_in = items[i].momentum;
    item.momentum_out = items[i].momentum;
    list.items.push_back(std::move(item));
  }
  return list;
}

uint64_t ScalarsBytes(size_t count) { return Aligned(count * sizeof(MuonScalars)); }
// The scalars, then the factors that they are made from.
uint64_t StepScalarsBytes(size_t count) {
  return ScalarsBytes(count) + Aligned(count * sizeof(double));
}

}  // namespace

extern "C" {

muond_kernels_status muond_kernels_newton_schulz_workspace(muond_kernels* engine,
                                                           const muond_kernels_table* table,
                                                           const muond_kernels_matrix* in,
                                                           size_t count, uint64_t limit_bytes,
                                                           uint64_t* bytes) {
  absl::StatusOr<CoefficientTable> found = TableOf(table);
  if (!found.ok()) return Answer(found.status());
  std::vector<OrthogonalizeItem> items;
  for (size_t i = 0; i < count; ++i) {
    absl::StatusOr<Matrix> matrix = MatrixOf(in[i], "matrix", i);
    if (!matrix.ok()) return Answer(matrix.status());
    items.push_back({*matrix, *matrix});
  }
  const uint64_t scalars = ScalarsBytes(1);
  *bytes =
      scalars + muond::OrthogonalizeWorkspaceBytes(engine->engine->ops(), items, *found,
                                                   limit_bytes - std::min(limit_bytes, scalars));
  return Answer(absl::OkStatus());
}

muond_kernels_status muond_kernels_newton_schulz(muond_kernels* engine, void* cuda_stream,
                                                 const muond_kernels_table* table, double eps,
                                                 const muond_kernels_matrix* in,
                                                 const muond_kernels_matrix* out, size_t count,
                                                 void* workspace, uint64_t bytes) {
  absl::StatusOr<CoefficientTable> found = TableOf(table);
  if (!found.ok()) return Answer(found.status());
  std::vector<OrthogonalizeItem> items;
  for (size_t i = 0; i < count; ++i) {
    absl::StatusOr<Matrix> from = MatrixOf(in[i], "matrix", i);
    if (!from.ok()) return Answer(from.status());
    absl::StatusOr<Matrix> to = MatrixOf(out[i], "result", i);
    if (!to.ok()) return Answer(to.status());
    if (from->rows != to->rows || from->cols != to->cols) {
      return Refuse(absl::StrFormat("matrix %d: a result of %d x %d for %d x %d", i, to->rows,
                                    to->cols, from->rows, from->cols));
    }
    items.push_back({*from, *to});
  }
  const uint64_t first = ScalarsBytes(1);
  if (bytes < first)
    return Refuse(absl::StrFormat("%d bytes of workspace, at least %d are needed", bytes, first));
  std::unique_ptr<muond::Stream> stream = engine->engine->StreamFor(cuda_stream);
  if (stream == nullptr) return Answer(absl::InternalError("no stream"));
  MuonScalars scalars;
  scalars.eps = eps;
  engine->engine->Put(*stream, workspace, &scalars, sizeof(scalars));
  const absl::Status status = muond::Orthogonalize(
      engine->engine->ops(), *stream, items, *found, static_cast<const MuonScalars*>(workspace),
      static_cast<char*>(workspace) + first, bytes - first);
  const absl::Status finished = engine->engine->Finish(*stream);
  return Answer(status.ok() ? finished : status);
}

muond_kernels_status muond_kernels_muon_step_workspace(muond_kernels* engine,
                                                       const muond_kernels_table* table,
                                                       const muond_kernels_muon_item* items,
                                                       size_t count, uint64_t limit_bytes,
                                                       uint64_t* bytes) {
  absl::StatusOr<MuonList> list = ListOf(table, items, count);
  if (!list.ok()) return Answer(list.status());
  for (MuonItem& item : list->items) item.table = &list->table;
  const uint64_t scalars = StepScalarsBytes(count);
  *bytes = scalars + muond::MuonWorkspaceBytes(engine->engine->ops(), list->items,
                                               limit_bytes - std::min(limit_bytes, scalars));
  return Answer(absl::OkStatus());
}

muond_kernels_status muond_kernels_muon_step(muond_kernels* engine, void* cuda_stream,
                                             const muond_kernels_table* table,
                                             const muond_kernels_muon_options* options,
                                             const muond_kernels_muon_item* items, size_t count,
                                             void* workspace, uint64_t bytes) {
  const absl::StatusOr<muond_kernels_muon_options> known = OptionsOf(options);
  if (!known.ok()) return Answer(known.status());
  absl::StatusOr<MuonList> list = ListOf(table, items, count);
  if (!list.ok()) return Answer(list.status());
  const uint64_t first = StepScalarsBytes(count);
  if (bytes < first)
    return Refuse(absl::StrFormat("%d bytes of workspace, at least %d are needed", bytes, first));
  std::unique_ptr<muond::Stream> stream = engine->engine->StreamFor(cuda_stream);
  if (stream == nullptr) return Answer(absl::InternalError("no stream"));
  auto* const scalars = static_cast<MuonScalars*>(workspace);
  auto* const factors =
      reinterpret_cast<double*>(static_cast<char*>(workspace) + ScalarsBytes(count));
  std::vector<double> update_scales;
  for (size_t i = 0; i < count; ++i) {
    MuonItem& item = list->items[i];
    item.table = &list->table;
    item.scalars = scalars + i;
    update_scales.push_back(
        muond::UpdateScaleFactor(static_cast<UpdateScale>(known->scale), item.rows, item.cols));
  }
  engine->engine->Put(*stream, factors, update_scales.data(), count * sizeof(double));
  engine->engine->Spread(*stream, ScalarsOf(*known), factors, count, scalars);
  const absl::Status status = muond::MuonStep(engine->engine->ops(), *stream, list->items,
                                              static_cast<char*>(workspace) + first, bytes - first);
  const absl::Status finished = engine->engine->Finish(*stream);
  return Answer(status.ok() ? finished : status);
}

muond_kernels_status muond_kernels_muon_plan_workspace(muond_kernels* engine,
                                                       const muond_kernels_table* table,
                                                       const muond_kernels_muon_item* items,
                                                       size_t count, size_t addresses,
                                                       uint64_t limit_bytes, uint64_t* bytes) {
  absl::StatusOr<CoefficientTable> found = TableOf(table);
  if (!found.ok()) return Answer(found.status());
  absl::StatusOr<std::vector<MuonPlanItem>> list = PlanItemsOf(items, nullptr, count);
  if (!list.ok()) return Answer(list.status());
  *bytes = MuonPlan::WorkspaceBytes(*engine->engine, *found, *list, addresses, limit_bytes);
  return Answer(absl::OkStatus());
}

muond_kernels_status muond_kernels_muon_plan_create(
    muond_kernels* engine, const muond_kernels_table* table, const muond_kernels_muon_item* items,
    const uint32_t* gradient_from, size_t count, size_t addresses, void* workspace, uint64_t bytes,
    muond_kernels_muon_plan** plan) {
  absl::StatusOr<CoefficientTable> found = TableOf(table);
  if (!found.ok()) return Answer(found.status());
  absl::StatusOr<std::vector<MuonPlanItem>> list = PlanItemsOf(items, gradient_from, count);
  if (!list.ok()) return Answer(list.status());
  absl::StatusOr<std::unique_ptr<MuonPlan>> made =
      MuonPlan::Create(*engine->engine, *std::move(found), *list, addresses, workspace, bytes);
  if (!made.ok()) return Answer(made.status());
  *plan = new muond_kernels_muon_plan{*std::move(made)};
  return Answer(absl::OkStatus());
}

muond_kernels_status muond_kernels_muon_plan_step(muond_kernels_muon_plan* plan, void* cuda_stream,
                                                  const muond_kernels_muon_options* options,
                                                  const void* const* gradients, size_t addresses) {
  const absl::StatusOr<muond_kernels_muon_options> known = OptionsOf(options);
  if (!known.ok()) return Answer(known.status());
  return Answer(plan->plan->Step(cuda_stream, ScalarsOf(*known),
                                 static_cast<UpdateScale>(known->scale), {gradients, addresses}));
}

void muond_kernels_muon_plan_destroy(muond_kernels_muon_plan* plan) { delete plan; }

}  // extern "C"
