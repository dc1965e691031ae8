// Newton-Schulz and the Muon step on the GPU against the same polynomial in double, by both product paths.
#include "kernels/optim/muon.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops/convert.h"
#include "kernels/ops/cuda/cuda_ops.h"
#include "tests/support/bench.h"

namespace muond::testing {
namespace {

struct Path {
  const char* name;
  CudaOpsOptions options;
};
void PrintTo(const Path& path, std::ostream* out) { *out << path.name; }

class CudaMuonTest : public ::testing::TestWithParam<Path> {
 protected:
  void SetUp() override {
    auto bench = CudaBench();
    if (absl::IsUnavailable(bench.status())) GTEST_SKIP() << bench.status();
    ASSERT_TRUE(bench.ok()) << bench.status();
    bench_ = *std::move(bench);
    bench_.ops =
        CreateCudaOpsWith(static_cast<CudaDevice&>(bench_.device()), GetParam().options).value();
  }

  // The update of a step with lr 1, no decay, no momentum, from a parameter of zeros: minus the orthogonalised gradient.
  std::vector<Dense> Orthogonalized(const std::vector<Dense>& gradients,
                                    const CoefficientTable& table) {
    const SharedValue<MuonScalars> scalars;
    *scalars = {.lr = -1, .momentum = 0, .eps = 1e-7, .nesterov = false};
    std::vector<std::unique_ptr<Tensor>> tensors;
    std::vector<MuonItem> items;
    for (const Dense& gradient : gradients) {
      auto keep = [&](const Dense& values) {
        return tensors.emplace_back(std::make_unique<Tensor>(bench_, values)).get();
      };
      const Dense zero(gradient.rows, gradient.cols);
      Tensor *g = keep(gradient), *p = keep(zero), *out = keep(zero), *m = keep(zero);
      MuonItem item;
      item.rows = gradient.rows;
      item.cols = gradient.cols;
      item.gradient = {g->AsBlock()};
      item.parameter_in = {p->AsBlock()};
      item.parameter_out = out->matrix();
      item.momentum_in = m->floats();
      item.momentum_out = m->floats();
      item.scalars = scalars.get();
      item.table = &table;
      items.push_back(item);
    }
    DeviceArray<uint8_t> workspace(bench_.device(),
                                   MuonWorkspaceBytes(*bench_.ops, items, UINT64_MAX));
    EXPECT_TRUE(
        MuonStep(*bench_.ops, *bench_.stream, items, workspace.data(), workspace.size()).ok());
    bench_.Finish();
    std::vector<Dense> results;
    for (size_t i = 2; i < tensors.size(); i += 4) results.push_back(tensors[i]->Read());
    return results;
  }

  Bench bench_;
};

INSTANTIATE_TEST_SUITE_P(Paths, CudaMuonTest,
                         ::testing::Values(Path{"auto", {}},
                                           Path{"library", {.products = ProductPath::kLibrary}}),
                         [](const auto& info) { return info.param.name; });

// A matrix with a chosen spectrum: Gaussian columns scaled by it.
Dense WithSpectrum(int64_t rows, int64_t cols, uint32_t seed, double (*value)(int64_t)) {
  Dense values = Gaussian(rows, cols, seed);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      values(row, col) = static_cast<float>(values(row, col) * value(rows <= cols ? row : col));
    }
  }
  return values;
}

// torch.optim.Muon's arithmetic: bf16 storage after each product, fp32 accumulation.
Dense InBFloat16(const Dense& x, const CoefficientTable& table) {
  auto round = [](Dense values) { return Rounded(values, DType::kBFloat16); };
  const bool tall = x.rows > x.cols;
  Dense y = round(tall ? Transposed(x) : x);
  const double norm =
      BFloat16ToFloat(FloatToBFloat16(static_cast<float>(std::max(Frobenius(y), 1e-7))));
  for (double& value : y.values) value /= norm;
  y = round(y);
  for (const Coefficients& row : table.steps) {
    const Dense gram = round(Times(y, Transposed(y)));
    Dense update = Times(gram, gram);
    for (size_t i = 0; i < update.values.size(); ++i)
      update.values[i] = row.c * update.values[i] + row.b * gram.values[i];
    const Dense product = Times(round(update), y);
    for (size_t i = 0; i < y.values.size(); ++i)
      y.values[i] = row.a * y.values[i] + product.values[i];
    y = round(y);
  }
  return tall ? Transposed(y) : y;
}

TEST_P(CudaMuonTest, ErrorsStayBelowTheBFloat16PathOnTheMatrixZoo) {
  std::vector<Dense> zoo = {
      Gaussian(8, 8, 70),
      Gaussian(64, 64, 71),
      Gaussian(100, 100, 72),
      Gaussian(96, 400, 73),
      Gaussian(400, 96, 74),
      Gaussian(33, 77, 75),
      Gaussian(200, 320, 76),
      Gaussian(136, 1024, 77),
      WithSpectrum(96, 256, 78, [](int64_t i) { return 1.0 / static_cast<double>(i + 1); }),
      WithSpectrum(128, 128, 79,
                   [](int64_t i) { return std::pow(10.0, -5.0 * static_cast<double>(i) / 127); }),
      WithSpectrum(96, 224, 80, [](int64_t i) { return i % 10 == 0 ? 1.0 : 0.01; }),
      WithSpectrum(96, 224, 81, [](int64_t i) { return i == 7 ? 1e4 : 1.0; }),
      WithSpectrum(96, 224, 82, [](int64_t i) { return i < 40 ? 1.0 : 0.0; })};
  for (const char* name : {"jordan", "you5", "polar_express_101", "polar_express_102",
                           "polar_express_105", "cans", "deepseek_v4"}) {
    const CoefficientTable table = FindCoefficientTable(name, 0).value();
    const std::vector<Dense> found = Orthogonalized(zoo, table);
    for (size_t i = 0; i < zoo.size(); ++i) {
      const Dense exact = Polynomial(zoo[i], table, 1e-7);
      const double error = FrobeniusDistance(found[i], exact),
                   bound = FrobeniusDistance(InBFloat16(zoo[i], table), exact);
      EXPECT_LE(error, bound) << name << ", matrix " << i << ": " << zoo[i].rows << " x "
                              << zoo[i].cols;
    }
  }
}

TEST_P(CudaMuonTest, ZeroTinyAndNonFiniteGradients) {
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  Dense broken = Gaussian(40, 64, 90);
  broken(3, 5) = std::nan("");
  const std::vector<Dense> found =
      Orthogonalized({Dense(40, 64), Gaussian(40, 64, 91, 1e-6), broken}, table);
  EXPECT_EQ(Frobenius(found[0]), 0);
  EXPECT_NEAR(Frobenius(found[1]), std::sqrt(40), 0.2 * std::sqrt(40));
  EXPECT_TRUE(std::isnan(Frobenius(found[2])));
}

TEST_P(CudaMuonTest, TheSameMatrixHasTheSameBitsInAnyList) {
  const CoefficientTable table = FindCoefficientTable("polar_express_105", 5).value();
  const Dense one = Gaussian(72, 200, 95);
  std::vector<Dense> list = {Gaussian(300, 40, 96), one, Gaussian(64, 64, 97),
                             Gaussian(72, 200, 98), one};
  const Dense alone = Orthogonalized({one}, table)[0];
  const std::vector<Dense> together = Orthogonalized(list, table);
  EXPECT_EQ(MaxDistance(together[1], alone), 0);
  EXPECT_EQ(MaxDistance(together[4], alone), 0);
}

}  // namespace
}  // namespace muond::testing
