// Newton-Schulz on the matrix zoo: the promise (no more error than torch's bf16 path), the exact oracle, the edges.
#include "kernels/optim/newton_schulz.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/bench.h"
#include "tests/support/matrix_zoo.h"

namespace muond::testing {
namespace {

using Algorithm = NewtonSchulzAlgorithm;

// Orthogonalises x on `bench`, through the direction pass that a step uses.
Dense Orthogonalise(const Bench& bench, const Dense& x, const CoefficientTable& table,
                    std::optional<Algorithm> algorithm = std::nullopt, double eps = 1e-7) {
  const Tensor gradient(bench, x), momentum(bench, Dense(x.rows, x.cols));
  const Tensor direction(bench, x.rows, x.cols, bench.ops->iterate_dtype(), 3);
  DeviceArray<double> norm(bench.device(), 1);
  const SharedValue<MuonScalars> scalars;
  *scalars = {.momentum = 0, .eps = eps, .nesterov = false};
  const DirectionTask task{x.rows,
                           x.cols,
                           {gradient.AsBlock()},
                           momentum.floats(),
                           momentum.floats(),
                           direction.matrix(),
                           norm.data(),
                           scalars.get()};
  bench.ops->Direction(*bench.stream, {&task, 1});
  const NewtonSchulzTask newton_schulz{direction.matrix(), norm.data(), &table};
  const uint64_t side = static_cast<uint64_t>(std::min(x.rows, x.cols)) + 16;
  auto workspace = bench.device()
                       .Allocate(NewtonSchulzWorkspaceBytes(*bench.ops, {&newton_schulz, 1}) +
                                 5 * side * side * 4)
                       .value();
  const std::vector<Matrix> results =
      algorithm.has_value()
          ? NewtonSchulzWith(*algorithm, *bench.ops, *bench.stream, {&newton_schulz, 1},
                             workspace->data())
          : NewtonSchulz(*bench.ops, *bench.stream, {&newton_schulz, 1}, workspace->data());
  bench.Finish();
  Matrix host = results[0];
  std::vector<uint8_t> bytes(static_cast<size_t>(host.rows * host.ld) * SizeOf(host.dtype));
  bench.stream->Copy(bytes.data(), host.data, bytes.size());
  bench.Finish();
  host.data = bytes.data();
  return FromMatrix(host);
}

const std::vector<std::string> kTables = {
    "jordan", "you5",       "polar_express_101", "polar_express_102", "polar_express_105",
    "cans",   "deepseek_v4"};

class ZooTest : public ::testing::TestWithParam<std::string> {};

TEST_P(ZooTest, TheErrorIsNotAboveTorchsBFloat16Path) {
  const Bench bench = CpuBench();
  double worst = 0;
  std::string worst_case;
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {8, 8}, {24, 100}, {61, 61}, {16, 256}, {96, 120}, {130, 65}, {129, 129}, {300, 40}}) {
    const ZooMatrix matrix = MakeZooMatrix(GetParam(), rows, cols, 7);
    for (const std::string& name : kTables) {
      const CoefficientTable table = FindCoefficientTable(name, 0).value();
      const Dense exact = Polynomial(matrix.x, table, 1e-7);
      const Dense torch = TorchBFloat16NewtonSchulz(matrix.x, table, 1e-7);
      for (Algorithm algorithm : {Algorithm::kStandard, Algorithm::kGram}) {
        const Dense ours = Orthogonalise(bench, matrix.x, table, algorithm);
        const std::string what = absl::StrCat(
            rows, "x", cols, " ", name, algorithm == Algorithm::kGram ? " gram" : " standard");
        const double ours_error = FrobeniusDistance(ours, exact),
                     torch_error = FrobeniusDistance(torch, exact);
        EXPECT_LE(ours_error, torch_error) << what;
        EXPECT_LE(MaxDistance(ours, exact), MaxDistance(torch, exact)) << what;
        if (torch_error > 0 && !(ours_error / torch_error <= worst)) {
          worst = ours_error / torch_error;
          worst_case = what;
        }
      }
    }
  }
  RecordProperty("worst_share_of_torchs_error", absl::StrCat(worst));
  printf("largest share of torch's error: %.2g (%s)\n", worst, worst_case.c_str());
}

INSTANTIATE_TEST_SUITE_P(Zoo, ZooTest, ::testing::ValuesIn(ZooNames()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
});

}  // namespace
}  // namespace muond::testing
