// The CUDA verbs under the contract of verbs, by both product paths, and what grouping promises: a matrix has the same
// bits alone and in any list.
#include <cstdlib>
#include <random>

#include "kernels/ops/cuda/cuda_ops.h"
#include "tests/support/ops_contract.h"

namespace muond::testing {
namespace {

absl::StatusOr<Bench> LibraryBench() {
  absl::StatusOr<Bench> bench = CudaBench();
  if (!bench.ok()) return bench.status();
  auto ops = CreateCudaOpsWith(static_cast<CudaDevice&>(bench->device()),
                               {.products = ProductPath::kLibrary});
  if (!ops.ok()) return ops.status();
  bench->ops = *std::move(ops);
  return bench;
}

INSTANTIATE_TEST_SUITE_P(Cuda, OpsContractTest,
                         ::testing::Values(OpsCase{"auto", &CudaBench},
                                           OpsCase{"library", &LibraryBench}),
                         [](const auto& info) { return info.param.name; });

class CudaOpsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto bench = CudaBench();
    if (absl::IsUnavailable(bench.status())) GTEST_SKIP() << bench.status();
    ASSERT_TRUE(bench.ok()) << bench.status();
    bench_ = *std::move(bench);
  }
  Bench bench_;
};

TEST_F(CudaOpsTest, AMatrixHasTheSameBitsAloneAndInALongList) {
  constexpr int kMatrices = 300;  // several launches
  const SharedValue<MuonScalars> scalars;
  *scalars = {.lr = 0.01, .weight_decay = 0.1, .momentum = 0.95};
  std::vector<std::unique_ptr<Tensor>> gradients, momenta, outs, directions;
  DeviceArray<double> norms(bench_.device(), kMatrices + 1);
  std::vector<DirectionTask> tasks;
  auto add = [&](int seed, int norm) {
    const int64_t rows = 16 + seed % 5 * 37, cols = 24 + seed % 7 * 51;
    gradients.push_back(
        std::make_unique<Tensor>(bench_, Gaussian(rows, cols, 900 + seed), DType::kBFloat16));
    momenta.push_back(std::make_unique<Tensor>(bench_, Gaussian(rows, cols, 1900 + seed)));
    outs.push_back(std::make_unique<Tensor>(bench_, rows, cols));
    directions.push_back(std::make_unique<Tensor>(bench_, rows, cols, DType::kFloat16, 8));
    tasks.push_back({rows,
                     cols,
                     {gradients.back()->AsBlock()},
                     momenta.back()->floats(),
                     outs.back()->floats(),
                     directions.back()->matrix(),
                     norms.data() + norm,
                     scalars.get()});
  };
  for (int i = 0; i < kMatrices; ++i) add(i, i);
  bench_.ops->Direction(*bench_.stream, tasks);
  add(211, kMatrices);
  bench_.ops->Direction(*bench_.stream, {&tasks.back(), 1});
  bench_.Finish();
  EXPECT_TRUE(SameBits(directions[211]->Bytes(), directions.back()->Bytes()));
  EXPECT_TRUE(SameBits(outs[211]->Bytes(), outs.back()->Bytes()));
  const std::vector<double> found = norms.Download(*bench_.stream);
  EXPECT_EQ(found[211], found.back());
}

TEST_F(CudaOpsTest, ThousandsOfBlocksAreCutIntoLaunches) {
  const int64_t rows = 1500, cols = 40;
  const Dense values = Gaussian(rows, cols, 60);
  std::vector<int64_t> cuts;
  for (int64_t row = 1; row < rows; ++row) cuts.push_back(row);
  const Cut many = CutUp(bench_, values, DType::kFloat32, cuts, {}),
            one = CutUp(bench_, values, DType::kFloat32, {}, {});
  const Measurement found = RunMeasure(bench_, many.blocks, rows, cols, true);
  EXPECT_EQ(found.sum_of_squares.windows,
            RunMeasure(bench_, one.blocks, rows, cols, true).sum_of_squares.windows);
  const Dense momentum = Gaussian(rows, cols, 61);
  const DirectionOutcome whole = RunDirection(bench_, one.blocks, momentum, {.momentum = 0.9});
  const DirectionOutcome pieces = RunDirection(bench_, many.blocks, momentum, {.momentum = 0.9});
  EXPECT_TRUE(SameBits(whole.direction_bytes, pieces.direction_bytes));
  EXPECT_EQ(whole.norm, pieces.norm);
}

// Shards whose rows are aligned, so that a tile is read through its map; the same elements as one dense matrix.
struct Shards {
  std::vector<std::unique_ptr<Tensor>> pieces;
  std::vector<Block> blocks;
};
Shards AlignedShards(const Bench& bench, const Dense& values, DType dtype, int64_t width,
                     int replica, Shards shards = {}) {
  for (int64_t col = 0; col < values.cols; col += width) {
    const int64_t cols = std::min(width, values.cols - col);
    const int64_t padding = 8 + (8 - cols % 8) % 8;
    shards.pieces.push_back(
        std::make_unique<Tensor>(bench, Slice(values, 0, col, values.rows, cols), dtype, padding));
    shards.blocks.push_back(shards.pieces.back()->AsBlock(0, col, replica));
  }
  return shards;
}

TEST_F(CudaOpsTest, AlignedColumnShardsAndPaddedDirectionsChangeNoBits) {
  const Bench reference = ReferenceBench();
  const int64_t rows = 75, cols = 776;  // three tiles and some
  for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    const Dense values = Rounded(Gaussian(rows, cols, 70), dtype);
    const Dense momentum = Gaussian(rows, cols, 71);
    const Tensor dense(bench_, values, dtype), there(reference, values, dtype);
    const DirectionOutcome expected =
        RunDirection(bench_, {dense.AsBlock()}, momentum, {.momentum = 0.9});
    const auto windows =
        RunMeasure(reference, {there.AsBlock()}, rows, cols, true).sum_of_squares.windows;
    EXPECT_EQ(RunMeasure(bench_, {dense.AsBlock()}, rows, cols, true).sum_of_squares.windows,
              windows);
    for (int64_t width : {256, 384, 100, 776}) {
      const Shards shards = AlignedShards(bench_, values, dtype, width, 0);
      for (int64_t padding : {0, 8}) {
        const DirectionOutcome found =
            RunDirection(bench_, shards.blocks, momentum, {.momentum = 0.9}, padding);
        EXPECT_TRUE(SameBits(found.momentum_bytes, expected.momentum_bytes)) << width;
        EXPECT_EQ(MaxDistance(found.direction, expected.direction), 0) << width;
        EXPECT_EQ(found.norm, expected.norm) << width;
        EXPECT_TRUE(found.padding_untouched);
      }
      EXPECT_EQ(RunMeasure(bench_, shards.blocks, rows, cols, true).sum_of_squares.windows, windows)
          << width;
    }
  }
}

TEST_F(CudaOpsTest, TwoToTenReplicasAreSummedAlongTheTreeWhateverTheirShards) {
  const Bench reference = ReferenceBench();
  const int64_t rows = 30, cols = 640;
  const Dense momentum = Gaussian(rows, cols, 80);
  const MuonScalars scalars{.momentum = 0, .nesterov = false};
  Shards there, here;
  for (int replica = 0; replica < 10; ++replica) {
    const DType dtype = replica % 3 == 1 ? DType::kBFloat16 : DType::kFloat32;
    const Dense values = Rounded(
        Gaussian(rows, cols, 81 + static_cast<uint32_t>(replica), std::exp2(replica % 5)), dtype);
    there = AlignedShards(bench_, values, dtype, replica % 2 == 0 ? 640 : 256, replica,
                          std::move(there));
    here = AlignedShards(reference, values, dtype, 640, replica, std::move(here));
    if (replica == 0) continue;
    const DirectionOutcome found = RunDirection(bench_, there.blocks, momentum, scalars),
                           expected = RunDirection(reference, here.blocks, momentum, scalars);
    EXPECT_EQ(MaxDistance(found.momentum, expected.momentum), 0) << replica + 1 << " replicas";
    EXPECT_EQ(RunMeasure(bench_, there.blocks, rows, cols, true).sum_of_squares.windows,
              RunMeasure(reference, here.blocks, rows, cols, true).sum_of_squares.windows)
        << replica + 1 << " replicas";
  }
}

TEST_F(CudaOpsTest, MeasureIsExactForEverySpreadOfMagnitudes) {
  const Bench reference = ReferenceBench();
  const int64_t rows = 70, cols = 512;
  for (double spread : {1.0, 8.0, 24.0, 60.0, 140.0}) {
    Dense values = Gaussian(rows, cols, 90);
    std::mt19937 random(91);
    for (size_t i = 0; i < values.values.size(); ++i) {
      const double exponent = -spread * static_cast<double>(random() % 1024) / 1023;
      values.values[i] *= std::exp2(exponent);
      if (random() % 16 == 0) values.values[i] = 0;
    }
    values.values[7777] = std::nan("");
    values.values[20'000] = -std::numeric_limits<double>::infinity();
    for (DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      const Dense rounded = Rounded(values, dtype);
      const Tensor subject(bench_, rounded, dtype), there(reference, rounded, dtype);
      const Measurement found = RunMeasure(bench_, {subject.AsBlock()}, rows, cols, true),
                        expected = RunMeasure(reference, {there.AsBlock()}, rows, cols, true);
      EXPECT_EQ(found.sum_of_squares.windows, expected.sum_of_squares.windows)
          << Name(dtype) << ", down to 2^-" << spread;
      EXPECT_EQ(found.non_finite, expected.non_finite);
    }
  }
}

// The guess of the power of two looks at 4096 places; here they see nothing of what the matrix holds.
TEST_F(CudaOpsTest, AGradientInOneRowKeepsItsDirection) {
  for (double scale : {1e-12, 1.0, 1e12}) {
    Dense values(300, 1000);
    for (int64_t col = 0; col < 1000; col += 3)
      values(123, col) = (col % 2 == 0 ? 1 : -1) * scale * (1 + col / 500.0);
    const Tensor gradient(bench_, values);
    const DirectionOutcome found = RunDirection(bench_, {gradient.AsBlock()}, Dense(300, 1000),
                                                {.momentum = 0, .eps = 0, .nesterov = false}, 8);
    Dense expected = values;
    const double norm = Frobenius(values);
    for (double& value : expected.values) value /= norm;
    ExpectNear(found.direction, expected, 2 * Epsilon(DType::kFloat16), 1e-6, "direction");
  }
}

TEST_F(CudaOpsTest, ABlockOutsideItsMatrixIsRefusedOnTheStream) {
  const Tensor gradient(bench_, Gaussian(8, 8, 1));
  const SharedValue<Measurement> result;
  MeasureTask task{{gradient.AsBlock(1, 0)}, 8, 8, true, result.get()};
  bench_.ops->Measure(*bench_.stream, {&task, 1});
  EXPECT_TRUE(absl::IsInvalidArgument(bench_.stream->Synchronize()));
}

TEST_F(CudaOpsTest, BytesPutInStreamOrderArriveWhole) {
  std::vector<uint64_t> values(100'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = i * 0x9e3779b97f4a7c15u;
  DeviceArray<uint64_t> array(bench_.device(), values.size());
  std::vector<uint64_t> lent = values;
  PutBytes(*bench_.stream, array.data(), lent.data(), lent.size() * 8);
  lent.assign(lent.size(), 0);  // the caller's memory is free at once
  EXPECT_EQ(array.Download(*bench_.stream), values);
}

TEST(CudaOpsOptionsTest, TheEnvironmentForcesTheLibrary) {
  setenv("MUOND_CUDA_PRODUCTS", "library", 1);
  EXPECT_EQ(CudaOpsOptionsFromEnvironment()->products, ProductPath::kLibrary);
  setenv("MUOND_CUDA_PRODUCTS", "fast", 1);
  EXPECT_TRUE(absl::IsInvalidArgument(CudaOpsOptionsFromEnvironment().status()));
  unsetenv("MUOND_CUDA_PRODUCTS");
  EXPECT_EQ(CudaOpsOptionsFromEnvironment()->products, ProductPath::kAuto);
}

}  // namespace
}  // namespace muond::testing
