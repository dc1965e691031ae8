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

// "jordan" and the other tables by name; `steps` <= 0 takes the table's own count, more repeats the last row.
absl::StatusOr<CoefficientTable> FindCoefficientTable(std::string_view name, int steps);

enum class NewtonSchulzAlgorithm : uint8_t { kStandard = 1, kGram = 2 };
NewtonSchulzAlgorithm ChooseAlgorithm(int64_t rows, int64_t cols, const CoefficientTable& table, DType iterate);

// FLOP of one matrix with symmetric products counted as triangles: the planner's cost and the benchmarks' floor.
double NewtonSchulzFlop(int64_t rows, int64_t cols, int steps, NewtonSchulzAlgorithm algorithm);

struct NewtonSchulzTask {
  Matrix x;                       // in: the direction; out: the orthogonalised update, in place
  const double* norm = nullptr;   // ||x||_F, device-reachable; x is divided by max(norm, eps)
  double eps = 1e-7;
  const CoefficientTable* table = nullptr;
};
uint64_t NewtonSchulzWorkspaceBytes(const Ops& ops, absl::Span<const NewtonSchulzTask> tasks);
void NewtonSchulz(Ops& ops, Stream& stream, absl::Span<const NewtonSchulzTask> tasks, void* workspace);

}  // namespace muond
