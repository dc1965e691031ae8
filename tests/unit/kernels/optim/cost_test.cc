#include "kernels/optim/cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace muond {
namespace {

using ::testing::HasSubstr;

TEST(CostTest, FlopFollowTheFormulasOfTheirAlgorithm) {
  const double s3 = 512.0 * 512 * 512;
  const auto flop = [](int64_t rows, int64_t cols, NewtonSchulzAlgorithm algorithm, DType iterate) {
    return NewtonSchulzFlop(rows, cols, 5, algorithm, iterate);
  };
  // 15 a + 5, 3 a + 17 and 6 a + 14 units of s^3, a = l/s.
  EXPECT_DOUBLE_EQ(flop(512, 2048, NewtonSchulzAlgorithm::kStandard, DType::kFloat32), 65 * s3);
  EXPECT_DOUBLE_EQ(flop(2048, 512, NewtonSchulzAlgorithm::kGram, DType::kFloat32), 29 * s3);
  EXPECT_DOUBLE_EQ(flop(512, 2048, NewtonSchulzAlgorithm::kGram, DType::kFloat16), 38 * s3);
}

TEST(CostTest, FastTablesPayASecondRestartIn16BitOnly) {
  const double s3 = 512.0 * 512 * 512;
  const CoefficientTable table = FindCoefficientTable("polar_express_105", 5).value();
  EXPECT_DOUBLE_EQ(
      NewtonSchulzFlop(512, 2048, table, NewtonSchulzAlgorithm::kGram, DType::kFloat16), 47 * s3);
  EXPECT_DOUBLE_EQ(
      NewtonSchulzFlop(512, 2048, table, NewtonSchulzAlgorithm::kGram, DType::kFloat32), 29 * s3);
  EXPECT_EQ(ChooseAlgorithm(512, 2048, table, DType::kFloat16), NewtonSchulzAlgorithm::kGram);
}

TEST(CostTest, SmallMatricesPayForAccuracyIn16BitOnly) {
  const double s3 = 256.0 * 256 * 256;
  EXPECT_DOUBLE_EQ(NewtonSchulzFlop(256, 2048, 5, NewtonSchulzAlgorithm::kGram, DType::kFloat16),
                   83 * s3);
  EXPECT_DOUBLE_EQ(NewtonSchulzFlop(256, 2048, 5, NewtonSchulzAlgorithm::kGram, DType::kFloat32),
                   41 * s3);
  const CoefficientTable fast = FindCoefficientTable("polar_express_105", 5).value();
  EXPECT_EQ(ChooseAlgorithm(256, 2048, fast, DType::kFloat16), NewtonSchulzAlgorithm::kStandard);
  EXPECT_EQ(ChooseAlgorithm(256, 2048, fast, DType::kFloat32), NewtonSchulzAlgorithm::kGram);
}

TEST(CostTest, TheCheaperAlgorithmIsChosenFromTheCrossingOn) {
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  EXPECT_EQ(ChooseAlgorithm(768, 768, table, DType::kFloat32), NewtonSchulzAlgorithm::kStandard);
  EXPECT_EQ(ChooseAlgorithm(768, 959, table, DType::kFloat32), NewtonSchulzAlgorithm::kStandard);
  EXPECT_EQ(ChooseAlgorithm(768, 960, table, DType::kFloat32), NewtonSchulzAlgorithm::kGram);
  EXPECT_EQ(ChooseAlgorithm(3072, 768, table, DType::kFloat32), NewtonSchulzAlgorithm::kGram);
  EXPECT_EQ(ChooseAlgorithm(1, 1, table, DType::kFloat32), NewtonSchulzAlgorithm::kStandard);
}

TEST(CostTest, BytesAreThoseOfTheElementWisePasses) {
  const CoefficientTable table = FindCoefficientTable("jordan", 5).value();
  // gradient 2, momentum 4 + 4, direction 4; update 4, parameter 2 + 2.
  EXPECT_EQ(MuonCost(10, 20, table, DType::kFloat32, DType::kBFloat16, DType::kBFloat16).bytes,
            200 * 22);
  EXPECT_EQ(AdamWCost(100, DType::kFloat32, DType::kFloat32).bytes, 100 * 28);
}

TEST(CostModelTest, RatesAreInterpolatedOverTheLogarithmOfTheSide) {
  const CostModel model("x", 10, {{128, 100}, {512, 300}});
  EXPECT_EQ(model.FlopPerSecond(1), 100);
  EXPECT_EQ(model.FlopPerSecond(128), 100);
  EXPECT_DOUBLE_EQ(model.FlopPerSecond(256), 200);
  EXPECT_EQ(model.FlopPerSecond(9999), 300);
  EXPECT_DOUBLE_EQ(model.Seconds({.flop = 600, .bytes = 20}, 512), 4);
}

TEST(CostModelTest, TextGoesThereAndBack) {
  const CostModel model("NVIDIA H200", 4.1e12, {{128, 1.5e13}, {4096, 6.5e14}});
  const CostModel again = CostModel::Parse(model.ToText()).value();
  EXPECT_EQ(again.device(), "NVIDIA H200");
  EXPECT_EQ(again.bytes_per_second(), 4.1e12);
  ASSERT_EQ(again.points().size(), 2u);
  EXPECT_EQ(again.FlopPerSecond(700), model.FlopPerSecond(700));
}

TEST(CostModelTest, BadTextIsRefusedWithItsLine) {
  const std::string head = "muond-calibration 1\n";
  const std::pair<std::string, std::string> cases[] = {
      {"", "line 1"},
      {"muond-calibration 2\n", "line 1"},
      {head + "bytes_per_second 1e9\nflop_per_second 0 1e9\n", "line 3"},
      {head + "bytes_per_second 1e9\nflop_per_second 128 -1\n", "line 3"},
      {head + "bytes_per_second nan\n", "line 2"},
      {head + "bytes_per_second 1\nbytes_per_second 1\n", "line 3"},
      {head + "speed 1\n", "unknown key"},
      {head + "flop_per_second 128 1e9\n", "without bytes_per_second"},
      {head + "bytes_per_second 1e9\n", "without flop_per_second"},
      {head + "bytes_per_second 1e9\nflop_per_second 8 1\nflop_per_second 8 2\n", "side 8 twice"},
  };
  for (const auto& [text, why] : cases) {
    const absl::Status status = CostModel::Parse(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why)) << text;
  }
  EXPECT_TRUE(CostModel::Parse(
                  head + "# measured today\nbytes_per_second 1e9 # copy\n\nflop_per_second 8 1\n")
                  .ok());
}

}  // namespace
}  // namespace muond
