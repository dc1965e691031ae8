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

// The reference with fp16 iterates: what the 16-bit form of the products (a I apart, restarts) does on exact sums.
class HalfReferenceOps final : public Ops {
 public:
  DType iterate_dtype() const override { return DType::kFloat16; }
  void Measure(Stream& stream, absl::Span<const MeasureTask> tasks) override {
    ops_->Measure(stream, tasks);
  }
  void Direction(Stream& stream, absl::Span<const DirectionTask> tasks) override {
    ops_->Direction(stream, tasks);
  }
  void Multiply(Stream& stream, absl::Span<const Product> products) override {
    ops_->Multiply(stream, products);
  }
  void Apply(Stream& stream, absl::Span<const ApplyTask> tasks) override {
    ops_->Apply(stream, tasks);
  }
  void AdamW(Stream& stream, absl::Span<const AdamWTask> tasks) override {
    ops_->AdamW(stream, tasks);
  }
  void Scatter(Stream& stream, absl::Span<const ScatterTask> tasks) override {
    ops_->Scatter(stream, tasks);
  }
  void Flip(Stream& stream, const FlipTask& task) override { ops_->Flip(stream, task); }

 private:
  const std::unique_ptr<Ops> ops_ = CreateReferenceOps();
};

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

TEST_P(ZooTest, HalfIteratesKeepThePromiseToo) {
  Bench bench = ReferenceBench();
  bench.ops = std::make_unique<HalfReferenceOps>();
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{{16, 48}, {70, 40}}) {
    ZooMatrix matrix = MakeZooMatrix(GetParam(), rows, cols, 9);
    for (const char* name : {"jordan", "you5", "polar_express_105"}) {
      const CoefficientTable table = FindCoefficientTable(name, 0).value();
      const Dense exact = Polynomial(matrix.x, table, 1e-7);
      const double torch_error =
          FrobeniusDistance(TorchBFloat16NewtonSchulz(matrix.x, table, 1e-7), exact);
      for (Algorithm algorithm : {Algorithm::kStandard, Algorithm::kGram}) {
        const double error =
            FrobeniusDistance(Orthogonalise(bench, matrix.x, table, algorithm), exact);
        EXPECT_LE(error, torch_error)
            << rows << "x" << cols << " " << name << " " << static_cast<int>(algorithm);
      }
    }
  }
}

// Rounding is amplified where the polynomial is steepest: at zero, by the product of all a. The Gram form squares that for
// its small eigenvalues, so steep tables are held to the promise above only.
TEST_P(ZooTest, TheResultIsTheSpectralOracle) {
  const Bench bench = CpuBench();
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{32, 32}, {100, 20}, {48, 200}}) {
    const ZooMatrix matrix = MakeZooMatrix(GetParam(), rows, cols, 8);
    if (matrix.u.values.empty()) return;  // gaussian and zero have no spectrum by construction
    for (const std::string& name : kTables) {
      const CoefficientTable table = FindCoefficientTable(name, 0).value();
      double slope = 1;
      for (const Coefficients& row : table.steps) slope *= row.a;
      const double tolerance =
          16 * 0x1p-24 * slope * std::sqrt(static_cast<double>(std::min(rows, cols))) + 1e-4;
      const Dense exact = SpectralOracle(matrix, table);
      EXPECT_LE(
          FrobeniusDistance(Orthogonalise(bench, matrix.x, table, Algorithm::kStandard), exact),
          tolerance)
          << rows << "x" << cols << " " << name;
      if (name != "jordan") continue;
      EXPECT_LE(FrobeniusDistance(Orthogonalise(bench, matrix.x, table, Algorithm::kGram), exact),
                tolerance)
          << rows << "x" << cols << " " << name << " gram";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Zoo, ZooTest, ::testing::ValuesIn(ZooNames()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (c == '-') c = '_';
  }
  return name;
});

// Elements of an orthogonal 2 x 4000 are 1/63: times a singular value of 1e-6 they lie below what fp16 can hold.
TEST(NewtonSchulzTest, SmallSingularValuesOfWideMatricesSurviveHalfIterates) {
  Bench bench = ReferenceBench();
  bench.ops = std::make_unique<HalfReferenceOps>();
  Dense x(2, 4000), y(4000, 2);
  for (int64_t i = 0; i < 4000; ++i) {
    x(0, i) = std::cos(0.1 * static_cast<double>(i));
    x(1, i) = 1e-6 * std::sin(0.1 * static_cast<double>(i));
    for (int64_t row = 0; row < 2; ++row) y(i, row) = x(row, i);
  }
  const CoefficientTable table = FindCoefficientTable("jordan", 0).value();
  for (const Dense* matrix : {&x, &y}) {
    const Dense exact = Polynomial(*matrix, table, 1e-7);
    for (Algorithm algorithm : {Algorithm::kStandard, Algorithm::kGram}) {
      const Dense ours = Orthogonalise(bench, *matrix, table, algorithm);
      double error = 0, size = 0;
      for (int64_t i = 0; i < 4000; ++i) {
        const double a = matrix == &x ? ours(1, i) : ours(i, 1);
        const double b = matrix == &x ? exact(1, i) : exact(i, 1);
        error += (a - b) * (a - b);
        size += b * b;
      }
      EXPECT_LT(std::sqrt(error / size), 0.03) << static_cast<int>(algorithm);
    }
  }
}

TEST(NewtonSchulzTest, AMixedListGivesWhatEachMatrixGivesAlone) {
  const Bench bench = CpuBench();
  const CoefficientTable tables[] = {FindCoefficientTable("jordan", 5).value(),
                                     FindCoefficientTable("jordan", 1).value(),
                                     FindCoefficientTable("deepseek_v4", 0).value()};
  const SharedValue<double> norm;
  *norm = 3;
  std::vector<std::unique_ptr<Tensor>> directions;
  std::vector<NewtonSchulzTask> tasks;
  for (int64_t i = 0; i < 9; ++i) {
    directions.push_back(std::make_unique<Tensor>(
        bench, Gaussian(10 + 7 * i, 60 - 5 * i, static_cast<uint32_t>(i), 0.1)));
    tasks.push_back({directions.back()->matrix(), norm.get(), &tables[i % 3]});
  }
  const auto workspace =
      bench.device().Allocate(NewtonSchulzWorkspaceBytes(*bench.ops, tasks)).value();
  const std::vector<Matrix> together =
      NewtonSchulz(*bench.ops, *bench.stream, tasks, workspace->data());
  bench.Finish();
  std::vector<Dense> found;
  for (const Matrix& matrix : together) found.push_back(FromMatrix(matrix));
  for (size_t i = 0; i < tasks.size(); ++i) {
    const Tensor again(bench,
                       Gaussian(tasks[i].x.rows, tasks[i].x.cols, static_cast<uint32_t>(i), 0.1));
    const NewtonSchulzTask alone{again.matrix(), norm.get(), tasks[i].table};
    const std::vector<Matrix> result =
        NewtonSchulz(*bench.ops, *bench.stream, {&alone, 1}, workspace->data());
    bench.Finish();
    EXPECT_EQ(MaxDistance(FromMatrix(result[0]), found[i]), 0) << i;
  }
}

}  // namespace
}  // namespace muond::testing
