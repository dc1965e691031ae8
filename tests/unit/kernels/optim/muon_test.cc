#include "kernels/optim/muon.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/bench.h"

namespace muond::testing {
namespace {

struct StepOutcome {
  Dense parameter, momentum;
};

// One step of one matrix on the CPU.
class Stepper {
 public:
  StepOutcome Step(const Dense& gradient, const Dense& momentum, const Dense& parameter,
                   const MuonScalars& scalars, DType dtype = DType::kFloat32) {
    const Tensor g(bench_, gradient, dtype), m(bench_, momentum), p(bench_, parameter, dtype);
    const Tensor m_out(bench_, gradient.rows, gradient.cols),
        p_out(bench_, gradient.rows, gradient.cols, dtype, 5);
    const SharedValue<MuonScalars> shared;
    *shared = scalars;
    MuonItem item;
    item.rows = gradient.rows;
    item.cols = gradient.cols;
    item.gradient = {g.AsBlock()};
    item.parameter_in = {p.AsBlock()};
    item.parameter_out = p_out.matrix();
    item.momentum_in = m.floats();
    item.momentum_out = m_out.floats();
    item.scalars = shared.get();
    item.table = &table_;
    const uint64_t bytes = MuonWorkspaceBytes(*bench_.ops, {&item, 1}, UINT64_MAX);
    auto workspace = bench_.device().Allocate(bytes).value();
    EXPECT_TRUE(MuonStep(*bench_.ops, *bench_.stream, {&item, 1}, workspace->data(), bytes).ok());
    bench_.Finish();
    EXPECT_EQ(MaxDistance(m.Read(), momentum), 0) << "old state is kept";
    return {p_out.Read(), m_out.Read()};
  }
  const CoefficientTable& table() const { return table_; }

 private:
  const Bench bench_ = CpuBench();
  const CoefficientTable table_ = FindCoefficientTable("jordan", 5).value();
};

class MuonShapeTest : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(MuonShapeTest, OneStepFollowsTheFormula) {
  const auto [rows, cols] = GetParam();
  const Dense g = Gaussian(rows, cols, 1), m = Gaussian(rows, cols, 2), p = Gaussian(rows, cols, 3);
  MuonScalars scalars{.lr = 0.02, .weight_decay = 0.1, .momentum = 0.95};
  scalars.update_scale = UpdateScaleFactor(UpdateScale::kOriginal, rows, cols);
  Stepper stepper;
  const StepOutcome found = stepper.Step(g, m, p, scalars);

  Dense m_new(rows, cols), u(rows, cols), p_new(rows, cols);
  for (size_t i = 0; i < g.values.size(); ++i) {
    m_new.values[i] = 0.95 * m.values[i] + 0.05 * g.values[i];
    u.values[i] = 0.05 * g.values[i] + 0.95 * m_new.values[i];
  }
  const Dense o = Polynomial(u, stepper.table(), 1e-7);
  for (size_t i = 0; i < g.values.size(); ++i) {
    p_new.values[i] = (1 - 0.02 * 0.1) * p.values[i] - 0.02 * scalars.update_scale * o.values[i];
  }
  EXPECT_LT(MaxDistance(m_new, found.momentum), 1e-6);
  EXPECT_LT(MaxDistance(p_new, found.parameter), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MuonShapeTest,
                         ::testing::Values(std::tuple(1, 1), std::tuple(1, 77), std::tuple(300, 1),
                                           std::tuple(8, 8), std::tuple(97, 97),
                                           std::tuple(64, 200), std::tuple(201, 65),
                                           std::tuple(130, 390), std::tuple(257, 100)));

TEST(MuonTest, AZeroGradientOnlyDecays) {
  const Dense zero(40, 30), p = Gaussian(40, 30, 4);
  Stepper stepper;
  for (double eps : {1e-7, 0.0}) {
    const StepOutcome found =
        stepper.Step(zero, zero, p, {.lr = 0.5, .weight_decay = 0.5, .momentum = 0.95, .eps = eps});
    for (size_t i = 0; i < p.values.size(); ++i)
      EXPECT_EQ(found.parameter.values[i], static_cast<float>(0.75 * p.values[i]));
  }
}

TEST(MuonTest, TinyGradientsAreOrthogonalisedLikeLargeOnes) {
  const Dense zero(48, 100), g = Gaussian(48, 100, 5);
  Stepper stepper;
  const MuonScalars scalars{.lr = 1, .weight_decay = 0, .momentum = 0, .eps = 0, .nesterov = false};
  const StepOutcome expected = stepper.Step(g, zero, zero, scalars);
  for (double scale : {0x1p-100, 0x1p-60, 0x1p60, 0x1p90}) {
    Dense scaled = g;
    for (double& value : scaled.values) value *= scale;
    EXPECT_LT(MaxDistance(stepper.Step(scaled, zero, zero, scalars).parameter, expected.parameter),
              1e-5)
        << scale;
  }
}

TEST(MuonTest, HalfParametersAreRoundedOnce) {
  const Dense g = Rounded(Gaussian(33, 70, 6), DType::kBFloat16),
              p = Rounded(Gaussian(33, 70, 7), DType::kBFloat16);
  const Dense zero(33, 70);
  const MuonScalars scalars{.lr = 0.1, .weight_decay = 0.1, .momentum = 0.95};
  Stepper stepper;
  const Dense full = stepper.Step(g, zero, p, scalars).parameter;
  EXPECT_EQ(MaxDistance(stepper.Step(g, zero, p, scalars, DType::kBFloat16).parameter,
                        Rounded(full, DType::kBFloat16)),
            0);
}

TEST(MuonTest, TooSmallAWorkspaceIsRefusedWithBothSizes) {
  const Bench bench = CpuBench();
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  MuonItem item;
  item.rows = 100;
  item.cols = 50;
  item.table = &table;
  const uint64_t needed = MuonWorkspaceBytes(*bench.ops, {&item, 1}, 1);
  const absl::Status status = MuonStep(*bench.ops, *bench.stream, {&item, 1}, nullptr, needed - 1);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), absl::StrCat("a 100 x 50 matrix needs ", needed,
                                           " bytes of workspace, ", needed - 1, " are given"));
}

TEST(MuonTest, WorkspaceStaysWithinTheLimitWhereRoundsAllowIt) {
  const Bench bench = CpuBench();
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  std::vector<MuonItem> items(20);
  for (MuonItem& item : items) {
    item.rows = 64;
    item.cols = 128;
    item.table = &table;
  }
  const uint64_t one = MuonWorkspaceBytes(*bench.ops, {items.data(), 1}, UINT64_MAX);
  EXPECT_LE(MuonWorkspaceBytes(*bench.ops, items, 3 * one), 3 * one);
  EXPECT_GT(MuonWorkspaceBytes(*bench.ops, items, 3 * one), 2 * one);
  EXPECT_EQ(MuonWorkspaceBytes(*bench.ops, items, 1), one);
}

TEST(MuonTest, ScaleFactorsCarryTheirFormula) {
  EXPECT_EQ(UpdateScaleFactor(UpdateScale::kOriginal, 400, 100), 2);
  EXPECT_EQ(UpdateScaleFactor(UpdateScale::kOriginal, 100, 400), 1);
  EXPECT_DOUBLE_EQ(UpdateScaleFactor(UpdateScale::kMatchRmsAdamW, 100, 400), 4);
  EXPECT_EQ(UpdateScaleFactor(UpdateScale::kSqrtRatio, 100, 400), 0.5);
  EXPECT_EQ(UpdateScaleFactor(UpdateScale::kSqrtMax, 100, 400), 20);
  EXPECT_EQ(UpdateScaleFactor(UpdateScale::kNone, 100, 400), 1);
}

}  // namespace
}  // namespace muond::testing
