#include "kernels/optim/muon.h"

#include <gtest/gtest.h>

#include <random>
#include <tuple>
#include <vector>

#include "tests/support/dense.h"

namespace muond {
namespace {

using testing::Dense;

struct Machine {
  std::unique_ptr<Backend> backend = CreateCpuBackend({}).value();
  std::unique_ptr<Stream> stream = backend->devices()[0]->CreateStream().value();
  std::unique_ptr<Ops> ops = CreateCpuOps();
};

Dense Gaussian(int64_t rows, int64_t cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Dense result(rows, cols);
  for (double& value : result.values) value = static_cast<float>(normal(random));
  return result;
}

class MuonShapeTest : public ::testing::TestWithParam<std::tuple<int64_t, int64_t>> {};

TEST_P(MuonShapeTest, OneStepFollowsTheFormula) {
  const auto [rows, cols] = GetParam();
  Machine machine;
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  const Dense g = Gaussian(rows, cols, 1), m = Gaussian(rows, cols, 2), p = Gaussian(rows, cols, 3);
  std::vector<float> gradient = ToFloats(g), momentum = ToFloats(m), parameter = ToFloats(p);
  std::vector<float> momentum_out(gradient.size()), parameter_out(gradient.size());
  MuonScalars scalars{.lr = 0.02, .weight_decay = 0.1, .momentum = 0.95};
  scalars.update_scale = UpdateScaleFactor(UpdateScale::kOriginal, rows, cols);
  MuonItem item;
  item.rows = rows;
  item.cols = cols;
  item.gradient = {{gradient.data(), 0, 0, rows, cols, cols}};
  item.parameter_in = {{parameter.data(), 0, 0, rows, cols, cols}};
  item.parameter_out = {parameter_out.data(), rows, cols, cols};
  item.momentum_in = momentum.data();
  item.momentum_out = momentum_out.data();
  item.scalars = &scalars;
  item.table = &table;

  const uint64_t bytes = MuonWorkspaceBytes(*machine.ops, {&item, 1}, UINT64_MAX);
  auto workspace = machine.backend->devices()[0]->Allocate(bytes).value();
  ASSERT_TRUE(MuonStep(*machine.ops, *machine.stream, {&item, 1}, workspace->data(), bytes).ok());
  ASSERT_TRUE(machine.stream->Synchronize().ok());

  Dense m_new(rows, cols), u(rows, cols), p_new(rows, cols);
  for (size_t i = 0; i < g.values.size(); ++i) {
    m_new.values[i] = 0.95 * m.values[i] + 0.05 * g.values[i];
    u.values[i] = 0.05 * g.values[i] + 0.95 * m_new.values[i];
  }
  const Dense o = Polynomial(u, table, 1e-7);
  for (size_t i = 0; i < g.values.size(); ++i) {
    p_new.values[i] = (1 - 0.02 * 0.1) * p.values[i] - 0.02 * scalars.update_scale * o.values[i];
  }
  EXPECT_LT(MaxDistance(m_new, testing::FromFloats(momentum_out.data(), rows, cols, cols)), 1e-6);
  EXPECT_LT(MaxDistance(p_new, testing::FromFloats(parameter_out.data(), rows, cols, cols)), 2e-6);
}

INSTANTIATE_TEST_SUITE_P(Shapes, MuonShapeTest,
                         ::testing::Values(std::tuple(1, 1), std::tuple(1, 77), std::tuple(300, 1),
                                           std::tuple(8, 8), std::tuple(97, 97),
                                           std::tuple(64, 200), std::tuple(201, 65),
                                           std::tuple(130, 390), std::tuple(257, 100)));

}  // namespace
}  // namespace muond
