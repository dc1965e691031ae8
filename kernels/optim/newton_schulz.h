// Newton-Schulz orthogonalisation of a list of matrices: X <- a X + (b A + c A^2) X with A = X X^T, steps times.
// s = min(rows, cols), l = max. Algorithms (NUMERICS: 15 l/s + 5 units of s^3 against 6 l/s + 14, or 3 l/s + 17 in fp32):
//   standard   the products as written, symmetric ones computed as triangles;
//   gram       the iteration runs on R = X X^T (s x s) and X is multiplied at the end (and at restarts).
// Which one runs is a pure function of shape, table and iterate dtype: results never depend on the owner.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/ops.h"

namespace muond {

struct Coefficients {
  double a = 0, b = 0, c = 0;
};

struct CoefficientTable {
  std::string name;                 // "jordan", "polar_express_105", …, "custom"
  std::vector<Coefficients> steps;  // one row a step
};

// "jordan" (torch's), "you5", "polar_express_101", "_102", "_105", "cans", "deepseek_v4". `steps` <= 0 takes the table's own
// count, fewer cuts it, more repeats the last row. NOT_FOUND lists the names; INVALID_ARGUMENT from 100 steps on.
// polar_express_102 divides its input by 1.02 ||X||: that factor is folded into its first row.
absl::StatusOr<CoefficientTable> FindCoefficientTable(std::string_view name, int steps);

// "custom": any rows, under the same rule for `steps`. INVALID_ARGUMENT: no rows, a value that is not finite.
absl::StatusOr<CoefficientTable> CustomCoefficientTable(absl::Span<const Coefficients> rows,
                                                        int steps);

enum class NewtonSchulzAlgorithm : uint8_t { kStandard = 1, kGram = 2 };
NewtonSchulzAlgorithm ChooseAlgorithm(int64_t rows, int64_t cols, const CoefficientTable& table,
                                      DType iterate);

// Whether the Gram form of a matrix with short side `side` recomputes R from X before step `step` (counted from 0): its
// rounding grows with every step, the faster the larger the table's a; a small matrix has fewer elements to average over.
bool GramRestartsBefore(int step, int64_t side, const CoefficientTable& table, DType iterate);

// FLOP of one matrix with symmetric products counted as triangles: the planner's cost and the benchmarks' floor.
double NewtonSchulzFlop(int64_t rows, int64_t cols, const CoefficientTable& table,
                        NewtonSchulzAlgorithm algorithm, DType iterate);
// Of `steps` rows of the table "jordan".
double NewtonSchulzFlop(int64_t rows, int64_t cols, int steps, NewtonSchulzAlgorithm algorithm,
                        DType iterate);

struct NewtonSchulzTask {
  Matrix x;                      // in: the direction, in ops.iterate_dtype(); afterwards scratch
  const double* norm = nullptr;  // DirectionTask::direction_norm: x is divided by it
  const CoefficientTable* table = nullptr;  // read when the call is made
};
uint64_t NewtonSchulzWorkspaceBytes(const Ops& ops, absl::Span<const NewtonSchulzTask> tasks);

// Enqueues all tasks, product by product, each product of all of them in one call. Returns where each result lies: its x, or a
// place in `workspace`, whichever the last product wrote; valid until either is reused. Same rows, cols and dtype as x.
std::vector<Matrix> NewtonSchulz(Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks,
                                 void* workspace);
// The same into `results`, whose memory is reused: a thread that repeats a list allocates nothing.
void NewtonSchulz(Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks,
                  void* workspace, std::vector<Matrix>* results);

// The same with the algorithm given, for tests and benchmarks.
std::vector<Matrix> NewtonSchulzWith(NewtonSchulzAlgorithm algorithm, Ops& ops, Stream& stream,
                                     absl::Span<const NewtonSchulzTask> tasks, void* workspace);

}  // namespace muond
