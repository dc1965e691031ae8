// The contract of Ops: every verb of an implementation against the fp64 reference, on awkward shapes.
//   INSTANTIATE_TEST_SUITE_P(Cpu, OpsContractTest, ::testing::Values(OpsCase{"cpu", &MakeBench}));
// Tolerances are roundings of what is stored, in the dtype where it is stored.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "tests/support/bench.h"
#include "tests/support/dense.h"

namespace muond::testing {

struct OpsCase {
  std::string name;
  std::function<absl::StatusOr<Bench>()> create;  // UNAVAILABLE skips
};
inline void PrintTo(const OpsCase& ops, std::ostream* out) { *out << ops.name; }

class OpsContractTest : public ::testing::TestWithParam<OpsCase> {
 protected:
  void SetUp() override {
    auto bench = GetParam().create();
    if (absl::IsUnavailable(bench.status())) GTEST_SKIP() << bench.status();
    ASSERT_TRUE(bench.ok()) << bench.status();
    subject_ = *std::move(bench);
    reference_ = ReferenceBench();
  }
  DType iterate() const { return subject_.ops->iterate_dtype(); }

  Bench subject_;
  Bench reference_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OpsContractTest);

// |a - b| <= relative |b| + absolute, element by element; prints the worst.
inline void ExpectNear(const Dense& a, const Dense& b, double relative, double absolute,
                       const std::string& what) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.cols, b.cols);
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < a.values.size(); ++i) {
    const double excess =
        std::fabs(a.values[i] - b.values[i]) / (relative * std::fabs(b.values[i]) + absolute);
    if (!(excess <= worst)) {
      worst =
          std::isnan(excess) && std::isnan(a.values[i]) && std::isnan(b.values[i]) ? worst : excess;
      at = i;
    }
  }
  EXPECT_LE(worst, 1) << what << ": element " << at << " is " << a.values[at] << ", expected "
                      << b.values[at];
}

// ---- Measure ----

inline Measurement RunMeasure(const Bench& bench, const std::vector<Block>& blocks, int64_t rows,
                              int64_t cols, bool want_norm) {
  SharedValue<Measurement> result;
  MeasureTask task{blocks, rows, cols, want_norm, result.get()};
  bench.ops->Measure(*bench.stream, {&task, 1});
  bench.Finish();
  return *result;
}

TEST_P(OpsContractTest, MeasureGivesTheSameBitsForEveryCut) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    Dense values = Rounded(Gaussian(67, 129, 5), dtype);
    values(3, 4) = dtype == DType::kFloat16 ? 6e-8 : 1e-38;  // far from the others
    values(60, 100) = dtype == DType::kFloat16 ? 6e4 : 1e18;
    values = Rounded(values, dtype);
    const Cut whole = CutUp(reference_, values, dtype, {}, {});
    const Measurement expected = RunMeasure(reference_, whole.blocks, 67, 129, true);
    EXPECT_NEAR(expected.sum_of_squares.Value(), std::pow(Frobenius(values), 2),
                1e-12 * std::pow(Frobenius(values), 2));
    for (const auto& [rows, cols] :
         std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>{
             {{}, {}}, {{1}, {}}, {{}, {128}}, {{10, 11, 40}, {1, 64}}, {{33}, {2, 3, 5, 100}}}) {
      const Cut cut = CutUp(subject_, values, dtype, rows, cols);
      const Measurement found = RunMeasure(subject_, cut.blocks, 67, 129, true);
      EXPECT_EQ(found.sum_of_squares.windows, expected.sum_of_squares.windows) << Name(dtype);
      EXPECT_EQ(found.non_finite, 0u);
    }
  }
}

TEST_P(OpsContractTest, MeasureCountsNanAndInf) {
  Dense values = Gaussian(31, 70, 6);
  values(0, 0) = std::nan("");
  values(30, 69) = std::numeric_limits<double>::infinity();
  values(15, 33) = -std::numeric_limits<double>::infinity();
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const Cut cut = CutUp(subject_, values, dtype, {7}, {33});
    EXPECT_EQ(RunMeasure(subject_, cut.blocks, 31, 70, false).non_finite, 3u);
    EXPECT_EQ(RunMeasure(subject_, cut.blocks, 31, 70, true).non_finite, 3u);
  }
}

TEST_P(OpsContractTest, MeasureOfUnreducedReplicasIsOfTheirSum) {
  const Dense a = Gaussian(20, 30, 7), b = Gaussian(20, 30, 8);
  Dense sum(20, 30);
  for (size_t i = 0; i < sum.values.size(); ++i) {
    sum.values[i] = static_cast<float>(a.values[i]) + static_cast<float>(b.values[i]);
  }
  const Cut cut_a = CutUp(subject_, a, DType::kFloat32, {9}, {}, 0),
            cut_b = CutUp(subject_, b, DType::kFloat32, {}, {4}, 1);
  std::vector<Block> blocks = cut_a.blocks;
  blocks.insert(blocks.end(), cut_b.blocks.begin(), cut_b.blocks.end());
  const Measurement found = RunMeasure(subject_, blocks, 20, 30, true);
  const Cut whole = CutUp(reference_, sum, DType::kFloat32, {}, {});
  EXPECT_EQ(found.sum_of_squares.windows,
            RunMeasure(reference_, whole.blocks, 20, 30, true).sum_of_squares.windows);
}

// ---- Direction ----

struct DirectionOutcome {
  Dense direction;  // divided by the norm: the power of two cancels
  Dense momentum;
  double norm = 0;
  std::vector<uint8_t> direction_bytes, momentum_bytes;
  bool padding_untouched = false;
};

inline DirectionOutcome RunDirection(const Bench& bench, const std::vector<Block>& gradient,
                                     const Dense& momentum, const MuonScalars& scalars,
                                     int64_t padding = 0, bool in_place = false) {
  const Tensor old(bench, momentum), fresh(bench, momentum.rows, momentum.cols);
  const Tensor direction(bench, momentum.rows, momentum.cols, bench.ops->iterate_dtype(), padding);
  const SharedValue<MuonScalars> shared;
  *shared = scalars;
  DeviceArray<double> norm(bench.device(), 1);
  const Tensor& out = in_place ? old : fresh;
  DirectionTask task{momentum.rows, momentum.cols,      gradient,    old.floats(),
                     out.floats(),  direction.matrix(), norm.data(), shared.get()};
  bench.ops->Direction(*bench.stream, {&task, 1});
  bench.Finish();
  DirectionOutcome outcome{direction.Read(),  out.Read(),  norm.Download(*bench.stream)[0],
                           direction.Bytes(), out.Bytes(), direction.PaddingIsUntouched()};
  for (double& value : outcome.direction.values) value /= outcome.norm;
  return outcome;
}

TEST_P(OpsContractTest, DirectionFollowsTheFormula) {
  for (const auto& [rows, cols] :
       std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {1, 5000}, {4097, 1}, {65, 129}}) {
    const Dense gradient = Gaussian(rows, cols, 10), momentum = Gaussian(rows, cols, 11, 0.1);
    for (bool nesterov : {true, false}) {
      for (double mu : {0.95, 0.3, 0.0}) {
        MuonScalars scalars{.momentum = mu, .gradient_scale = 0.37, .nesterov = nesterov};
        const Cut there = CutUp(subject_, gradient, DType::kFloat32, {}, {}),
                  here = CutUp(reference_, gradient, DType::kFloat32, {}, {});
        const DirectionOutcome found = RunDirection(subject_, there.blocks, momentum, scalars, 7);
        const DirectionOutcome expected = RunDirection(reference_, here.blocks, momentum, scalars);
        ExpectNear(found.momentum, expected.momentum, 1e-6, 1e-6, "momentum");
        EXPECT_NEAR(found.norm / std::exp2(std::ilogb(found.norm)),
                    expected.norm / std::exp2(std::ilogb(expected.norm)), 1e-5);
        ExpectNear(found.direction, expected.direction, 2 * Epsilon(iterate()),
                   1e-6 / expected.norm, "direction");
        EXPECT_TRUE(found.padding_untouched);
        const DirectionOutcome again =
            RunDirection(subject_, there.blocks, momentum, scalars, 7, true);
        EXPECT_TRUE(SameBits(again.momentum_bytes, found.momentum_bytes)) << "in place";
      }
    }
  }
}

TEST_P(OpsContractTest, DirectionDoesNotDependOnTheCut) {
  const Dense gradient = Rounded(Gaussian(83, 131, 12), DType::kBFloat16),
              momentum = Gaussian(83, 131, 13);
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Cut whole = CutUp(subject_, gradient, dtype, {}, {});
    const DirectionOutcome expected =
        RunDirection(subject_, whole.blocks, momentum, {.momentum = 0.95});
    for (const auto& [rows, cols] :
         std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>{
             {{1, 2, 3}, {}}, {{}, {1, 64, 130}}, {{20, 21, 60}, {50}}, {{41}, {65}}}) {
      const Cut cut = CutUp(subject_, gradient, dtype, rows, cols);
      const DirectionOutcome found =
          RunDirection(subject_, cut.blocks, momentum, {.momentum = 0.95});
      EXPECT_TRUE(SameBits(found.direction_bytes, expected.direction_bytes)) << Name(dtype);
      EXPECT_TRUE(SameBits(found.momentum_bytes, expected.momentum_bytes)) << Name(dtype);
      EXPECT_EQ(found.norm, expected.norm) << Name(dtype);
    }
  }
}

// With mu = 0 and no Nesterov the new momentum is the summed gradient itself.
TEST_P(OpsContractTest, ReplicasAreSummedAlongTheBinaryTree) {
  const int64_t rows = 19, cols = 150;
  for (const std::vector<int>& indices : std::vector<std::vector<int>>{
           {0, 1}, {0, 1, 2, 3}, {0, 1, 2}, {1, 2}, {0, 3, 5, 6, 7, 12}, {5}, {2, 1023}}) {
    std::vector<Cut> there, here;
    std::vector<Block> blocks_there, blocks_here;
    for (int index : indices) {
      const auto seed = static_cast<uint32_t>(100 + index);
      const Dense values = Gaussian(rows, cols, seed, std::exp2(index % 7));
      there.push_back(CutUp(subject_, values, DType::kFloat32, {index % 18 + 1}, {}, index));
      here.push_back(CutUp(reference_, values, DType::kFloat32, {}, {}, index));
      blocks_there.insert(blocks_there.begin(), there.back().blocks.begin(),
                          there.back().blocks.end());
      blocks_here.insert(blocks_here.end(), here.back().blocks.begin(), here.back().blocks.end());
    }
    const MuonScalars scalars{.momentum = 0, .nesterov = false};
    const Dense momentum = Gaussian(rows, cols, 14);
    const DirectionOutcome found = RunDirection(subject_, blocks_there, momentum, scalars);
    const DirectionOutcome expected = RunDirection(reference_, blocks_here, momentum, scalars);
    EXPECT_EQ(MaxDistance(found.momentum, expected.momentum), 0)
        << ::testing::PrintToString(indices);
  }
}

TEST_P(OpsContractTest, AReplicaMayMissPartOfTheMatrix) {
  const Dense a = Gaussian(10, 64, 15), b = Gaussian(4, 64, 16);
  const Tensor whole(subject_, a), part(subject_, b);
  const MuonScalars scalars{.momentum = 0, .nesterov = false};
  const DirectionOutcome found = RunDirection(
      subject_, {whole.AsBlock(0, 0, 0), part.AsBlock(3, 0, 1)}, Dense(10, 64), scalars);
  for (int64_t row = 0; row < 10; ++row) {
    for (int64_t col = 0; col < 64; ++col) {
      const bool both = row >= 3 && row < 7;
      EXPECT_EQ(found.momentum(row, col),
                both ? static_cast<float>(a(row, col)) + static_cast<float>(b(row - 3, col))
                     : a(row, col));
    }
  }
}

TEST_P(OpsContractTest, AGradientBehindAnAddressIsFoundWhenTheWorkRuns) {
  const int64_t rows = 40, cols = 520;
  const Dense values = Gaussian(rows, cols, 17), momentum = Gaussian(rows, cols, 18);
  const Tensor gradient(subject_, values);
  const DirectionOutcome expected =
      RunDirection(subject_, {gradient.AsBlock()}, momentum, {.momentum = 0.9});
  const SharedValue<const void*> address;
  *address.get() = gradient.matrix().data;
  std::vector<Block> halves;
  for (int64_t row : {0, 24}) {
    Block half = gradient.AsBlock();
    half.base = address.get();
    half.data = reinterpret_cast<void*>(row * cols * 4);  // an offset
    half.row = row;
    half.rows = row == 0 ? 24 : 16;
    halves.push_back(half);
  }
  const DirectionOutcome found = RunDirection(subject_, halves, momentum, {.momentum = 0.9});
  EXPECT_TRUE(SameBits(found.direction_bytes, expected.direction_bytes));
  EXPECT_EQ(found.norm, expected.norm);
}

TEST_P(OpsContractTest, WithoutMomentumTheDirectionIsTheGradient) {
  const Dense values = Gaussian(65, 129, 19);
  const Cut cut = CutUp(subject_, values, DType::kBFloat16, {30}, {64});
  const Tensor direction(subject_, 65, 129, iterate(), 7);
  const SharedValue<MuonScalars> scalars;
  *scalars = {.momentum = 0.95, .gradient_scale = 0.5};
  DeviceArray<double> norm(subject_.device(), 1);
  DirectionTask task{65,          129,          cut.blocks, nullptr, nullptr, direction.matrix(),
                     norm.data(), scalars.get()};
  subject_.ops->Direction(*subject_.stream, {&task, 1});
  subject_.Finish();
  Dense expected = Rounded(values, DType::kBFloat16);
  for (double& value : expected.values) value *= 0.5;
  EXPECT_NEAR(norm.Download(*subject_.stream)[0], Frobenius(expected), 1e-5 * Frobenius(expected));
  ExpectNear(direction.Read(), expected, Epsilon(iterate()), 1e-7, "direction");
  EXPECT_TRUE(direction.PaddingIsUntouched());
}

TEST_P(OpsContractTest, AZeroGradientHasANormToDivideBy) {
  for (double eps : {1e-7, 0.0}) {
    const Dense zero(33, 40);
    const Tensor gradient(subject_, zero);
    const DirectionOutcome found =
        RunDirection(subject_, {gradient.AsBlock()}, zero, {.momentum = 0.95, .eps = eps});
    EXPECT_EQ(MaxDistance(found.direction, zero), 0);
    EXPECT_EQ(MaxDistance(found.momentum, zero), 0);
    EXPECT_GT(found.norm, 0);
  }
}

TEST_P(OpsContractTest, TinyAndHugeGradientsKeepTheirDirection) {
  for (double scale : {1e-30, 1e-20, 1e20, 1e30}) {
    const Dense values = Gaussian(40, 100, 17, scale), zero(40, 100);
    const Tensor gradient(subject_, values);
    MuonScalars scalars{.momentum = 0, .eps = 0, .nesterov = false};
    const DirectionOutcome found = RunDirection(subject_, {gradient.AsBlock()}, zero, scalars);
    Dense expected = values;
    for (double& value : expected.values) value /= Frobenius(values);
    ExpectNear(found.direction, expected, 2 * Epsilon(iterate()), Epsilon(iterate()) * 1e-3,
               "direction");
  }
}

TEST_P(OpsContractTest, EpsIsTheLeastDivisor) {
  const Dense values = Gaussian(10, 20, 18, 1e-9), zero(10, 20);
  const Tensor gradient(subject_, values);
  const DirectionOutcome found = RunDirection(subject_, {gradient.AsBlock()}, zero,
                                              {.momentum = 0, .eps = 1e-4, .nesterov = false});
  Dense expected = values;
  for (double& value : expected.values) value /= 1e-4;
  ExpectNear(found.direction, expected, 2 * Epsilon(iterate()), 1e-12, "direction");
}

// ---- Multiply ----

struct ProductCase {
  int64_t rows, cols, depth;
  bool a_transposed = false, b_transposed = false, symmetric = false, with_c = false,
       c_is_d = false, with_d2 = false;
  int divisor_power = 0;
  double diagonal = 0;
};

struct ProductOutcome {
  Dense d, d2;
  std::vector<uint8_t> bytes;
  bool padding_untouched = false;
};

inline ProductOutcome RunProduct(const Bench& bench, DType dtype, const ProductCase& c) {
  const auto shaped = [](int64_t rows, int64_t cols, bool transposed, uint32_t seed, double scale) {
    return transposed ? Transposed(Gaussian(rows, cols, seed, scale))
                      : Gaussian(rows, cols, seed, scale);
  };
  const double scale = 1 / std::sqrt(static_cast<double>(c.depth));
  Dense a = Rounded(shaped(c.rows, c.depth, c.a_transposed, 20, scale), dtype);
  Dense b = Rounded(shaped(c.depth, c.cols, c.b_transposed, 21, 1), dtype);
  Dense old = Rounded(Gaussian(c.rows, c.cols, 22), dtype);
  const bool gram = c.symmetric && c.rows != c.depth;
  if (gram) b = a;             // A A^T or A^T A
  if (c.symmetric && !gram) {  // two polynomials in one symmetric matrix commute
    Dense root = Gaussian(c.rows, c.rows, 20, scale);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t col = 0; col < row; ++col) root(col, row) = root(row, col);
    }
    a = Rounded(root, dtype);
    b = Times(root, root);
    for (size_t i = 0; i < b.values.size(); ++i) b.values[i] -= root.values[i];
    b = Rounded(b, dtype);
  }
  if (c.symmetric) {
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t col = 0; col < row; ++col) old(col, row) = old(row, col);
    }
  }
  const Tensor ta(bench, a, dtype, 16), tb(bench, b, dtype, 8), tc(bench, old, dtype, 24);
  const Tensor td(bench, c.rows, c.cols, dtype, 8), td2(bench, c.rows, c.cols, dtype, 16);
  const SharedValue<double> divisor;
  *divisor = 1.7;
  Product product{.d = c.c_is_d ? tc.matrix() : td.matrix(),
                  .a = ta.matrix(),
                  .b = gram ? ta.matrix() : tb.matrix()};
  if (c.with_c || c.c_is_d) product.c = tc.matrix();
  if (c.with_d2) product.d2 = td2.matrix();
  product.a_transposed = c.a_transposed;
  product.b_transposed = c.b_transposed;
  product.symmetric = c.symmetric;
  product.alpha = 0.75;
  product.beta = -0.5;
  product.diagonal = c.diagonal;
  product.diagonal2 = c.with_d2 ? 2.25 : 0;
  if (c.divisor_power > 0) product.alpha_divisor = divisor.get();
  product.divisor_power = c.divisor_power;
  bench.ops->Multiply(*bench.stream, {&product, 1});
  bench.Finish();
  const Tensor& out = c.c_is_d ? tc : td;
  return {out.Read(), td2.Read(), out.Bytes(), out.PaddingIsUntouched()};
}

inline std::vector<ProductCase> ProductCases() {
  std::vector<ProductCase> cases;
  for (int64_t rows : {1, 8, 65, 200}) {
    for (int64_t cols : {1, 7, 64, 130}) {
      for (int64_t depth : {1, 40, 129}) cases.push_back({rows, cols, depth});
    }
  }
  for (int64_t size : {1, 17, 96, 97, 130, 200}) {
    for (int64_t depth : {5, 64, 300}) {
      cases.push_back(
          {.rows = size, .cols = size, .depth = depth, .b_transposed = true, .symmetric = true});
      cases.push_back(
          {.rows = size, .cols = size, .depth = depth, .a_transposed = true, .symmetric = true});
    }
    cases.push_back({.rows = size,
                     .cols = size,
                     .depth = size,
                     .b_transposed = true,
                     .symmetric = true,
                     .with_c = true,
                     .diagonal = 3.5});
    cases.push_back({.rows = size, .cols = size, .depth = size, .symmetric = true, .c_is_d = true});
    cases.push_back({.rows = size,
                     .cols = size,
                     .depth = size,
                     .b_transposed = true,
                     .symmetric = true,
                     .with_c = true,
                     .with_d2 = true});
  }
  cases.push_back({.rows = 100, .cols = 50, .depth = 33, .b_transposed = true});
  cases.push_back({.rows = 100, .cols = 50, .depth = 33, .a_transposed = true, .with_c = true});
  cases.push_back({.rows = 100, .cols = 50, .depth = 33, .c_is_d = true, .divisor_power = 1});
  cases.push_back({.rows = 64,
                   .cols = 64,
                   .depth = 100,
                   .b_transposed = true,
                   .symmetric = true,
                   .divisor_power = 2});
  cases.push_back(
      {.rows = 60, .cols = 60, .depth = 60, .with_c = true, .with_d2 = true, .diagonal = -1});
  return cases;
}

TEST_P(OpsContractTest, MultiplyFollowsTheFormula) {
  for (const ProductCase& c : ProductCases()) {
    SCOPED_TRACE(absl::StrCat(
        c.rows, " x ", c.cols, " over ", c.depth, c.symmetric ? " symmetric" : "",
        c.a_transposed ? " A^T" : "", c.b_transposed ? " B^T" : "", c.with_c ? " + C" : "",
        c.c_is_d ? " + D" : "", c.with_d2 ? " D2" : "", c.divisor_power ? " divided" : ""));
    const ProductOutcome found = RunProduct(subject_, iterate(), c),
                         expected = RunProduct(reference_, iterate(), c);
    const double sums =
        0x1p-22 * std::sqrt(static_cast<double>(c.depth)) * 4;  // fp32 accumulation of O(1) terms
    ExpectNear(found.d, expected.d, Epsilon(iterate()), sums, "D");
    if (c.with_d2) ExpectNear(found.d2, expected.d2, Epsilon(iterate()), sums, "D2");
    if (c.symmetric) {
      EXPECT_EQ(MaxDistance(found.d, Transposed(found.d)), 0);
      if (c.with_d2) {
        EXPECT_EQ(MaxDistance(found.d2, Transposed(found.d2)), 0);
      }
    }
    EXPECT_TRUE(found.padding_untouched);
    EXPECT_TRUE(SameBits(RunProduct(subject_, iterate(), c).bytes, found.bytes)) << "run again";
  }
}

// ---- Apply, AdamW, Scatter, Flip ----

TEST_P(OpsContractTest, ApplyDecaysAndSteps) {
  const MuonScalars scalars{.lr = 0.02, .weight_decay = 0.1, .update_scale = 1.5};
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const Dense parameter = Rounded(Gaussian(37, 91, 30), dtype),
                update = Rounded(Gaussian(37, 91, 31), iterate());
    std::vector<Dense> outcomes;
    for (const Bench* bench : {&subject_, &reference_}) {
      const Cut in = CutUp(*bench, parameter, dtype, {5, 6}, {13});
      const Tensor out(*bench, 37, 91, dtype, 3);
      const Tensor u(*bench, update, bench->ops->iterate_dtype(), 5);
      const SharedValue<MuonScalars> shared;
      *shared = scalars;
      ApplyTask task{37, 91, in.blocks, out.matrix(), u.matrix(), shared.get()};
      bench->ops->Apply(*bench->stream, {&task, 1});
      bench->Finish();
      EXPECT_TRUE(out.PaddingIsUntouched());
      outcomes.push_back(out.Read());
    }
    ExpectNear(outcomes[0], outcomes[1], Epsilon(dtype), 1e-7, Name(dtype));
  }
}

struct AdamWOutcome {
  Dense parameter, exp_avg, exp_avg_sq;
  double step = 0;
};

inline AdamWOutcome RunAdamW(const Bench& bench, DType dtype, bool present, int steps) {
  const int64_t rows = 29, cols = 77;
  AdamWOutcome now{Rounded(Gaussian(rows, cols, 40), dtype), Dense(rows, cols), Dense(rows, cols),
                   0};
  const SharedValue<AdamWScalars> scalars;
  *scalars = {.lr = 3e-3,
              .weight_decay = 0.1,
              .beta1 = 0.9,
              .beta2 = 0.95,
              .eps = 1e-8,
              .gradient_scale = 0.5};
  for (int step = 0; step < steps; ++step) {
    const Dense g = Rounded(Gaussian(rows, cols, static_cast<uint32_t>(41 + step)), dtype);
    const Cut gradient = CutUp(bench, g, dtype, {11}, {30}),
              in = CutUp(bench, now.parameter, dtype, {3}, {});
    const Tensor m(bench, now.exp_avg), v(bench, now.exp_avg_sq), m_out(bench, rows, cols),
        v_out(bench, rows, cols);
    const Tensor out(bench, rows, cols, dtype, 1);
    DeviceArray<double> step_in(bench.device(), *bench.stream, {now.step}),
        step_out(bench.device(), 1);
    AdamWTask task;
    task.rows = rows;
    task.cols = cols;
    task.present = present;
    if (present) task.gradient = gradient.blocks;
    task.parameter_in = in.blocks;
    task.parameter_out = out.matrix();
    task.exp_avg_in = m.floats();
    task.exp_avg_sq_in = v.floats();
    task.exp_avg_out = m_out.floats();
    task.exp_avg_sq_out = v_out.floats();
    task.step_in = step_in.data();
    task.step_out = step_out.data();
    task.scalars = scalars.get();
    bench.ops->AdamW(*bench.stream, {&task, 1});
    bench.Finish();
    now = {out.Read(), m_out.Read(), v_out.Read(), step_out.Download(*bench.stream)[0]};
  }
  return now;
}

TEST_P(OpsContractTest, AdamWFollowsTheFormula) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const AdamWOutcome found = RunAdamW(subject_, dtype, true, 3),
                       expected = RunAdamW(reference_, dtype, true, 3);
    ExpectNear(found.exp_avg, expected.exp_avg, 1e-6, 1e-6, "exp_avg");
    ExpectNear(found.exp_avg_sq, expected.exp_avg_sq, 1e-6, 1e-9, "exp_avg_sq");
    ExpectNear(found.parameter, expected.parameter, 2 * Epsilon(dtype), 1e-6, "parameter");
    EXPECT_EQ(found.step, 3);
  }
}

TEST_P(OpsContractTest, AdamWWithoutAGradientCopies) {
  const Dense before = Rounded(Gaussian(29, 77, 40), DType::kFloat32);
  const AdamWOutcome found = RunAdamW(subject_, DType::kFloat32, false, 2);
  EXPECT_EQ(MaxDistance(found.parameter, before), 0);
  EXPECT_EQ(MaxDistance(found.exp_avg, Dense(29, 77)), 0);
  EXPECT_EQ(found.step, 0);
}

TEST_P(OpsContractTest, ScatterWritesEveryBlockInItsDtype) {
  const Dense values = Gaussian(45, 66, 50);
  for (DType from : {DType::kFloat32, DType::kBFloat16}) {
    for (DType to : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const Tensor source(subject_, values, from, 2);
      const Tensor left(subject_, 45, 20, to, 3), right(subject_, 10, 46, to),
          copy(subject_, 45, 66, to);
      ScatterTask task{source.matrix(),
                       {left.AsBlock(0, 0), right.AsBlock(33, 20), copy.AsBlock(0, 0, 1)}};
      subject_.ops->Scatter(*subject_.stream, {&task, 1});
      subject_.Finish();
      const Dense expected = Rounded(Rounded(values, from), to);
      EXPECT_EQ(MaxDistance(left.Read(), Slice(expected, 0, 0, 45, 20)), 0);
      EXPECT_EQ(MaxDistance(right.Read(), Slice(expected, 33, 20, 10, 46)), 0);
      EXPECT_EQ(MaxDistance(copy.Read(), expected), 0);
      EXPECT_TRUE(left.PaddingIsUntouched());
    }
  }
}

TEST_P(OpsContractTest, FlipObeysItsMark) {
  const SharedValue<Cell> word, mark;
  subject_.ops->Flip(*subject_.stream, {word.get(), 41, mark.get()});
  subject_.Finish();
  EXPECT_EQ(word->load(), 41u);
  mark->store(1);
  subject_.ops->Flip(*subject_.stream, {word.get(), 42, mark.get()});
  subject_.Finish();
  EXPECT_EQ(word->load(), 41u);
  subject_.ops->Flip(*subject_.stream, {word.get(), 43, nullptr});
  subject_.Finish();
  EXPECT_EQ(word->load(), 43u);
}

TEST_P(OpsContractTest, EmptyListsAndEmptyMatricesAreNothing) {
  subject_.ops->Measure(*subject_.stream, {});
  subject_.ops->Direction(*subject_.stream, {});
  subject_.ops->Multiply(*subject_.stream, {});
  subject_.ops->Apply(*subject_.stream, {});
  subject_.ops->AdamW(*subject_.stream, {});
  subject_.ops->Scatter(*subject_.stream, {});
  EXPECT_EQ(RunMeasure(subject_, {}, 0, 100, true).non_finite, 0u);
  subject_.Finish();
}

}  // namespace muond::testing
