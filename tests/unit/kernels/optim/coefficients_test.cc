#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "kernels/optim/newton_schulz.h"

namespace muond {
namespace {

double Composed(const CoefficientTable& table, double x) {
  for (const Coefficients& row : table.steps)
    x = row.a * x + row.b * x * x * x + row.c * std::pow(x, 5);
  return x;
}

// What each table does to singular values in [0.01, 1]: the ranges that their authors aim at.
TEST(CoefficientsTest, TablesMapSingularValuesIntoTheirRange) {
  struct Range {
    const char* name;
    double low, high;
  };
  for (const Range& range :
       {Range{"jordan", 0.67, 1.14}, Range{"you5", 0.97, 1.035},
        Range{"polar_express_105", 0.84, 1.13}, Range{"polar_express_101", 0.995, 1.005},
        Range{"polar_express_102", 0.85, 1.15}, Range{"cans", 0.87, 1.13},
        Range{"deepseek_v4", 0.99, 1.01}}) {
    const CoefficientTable table = FindCoefficientTable(range.name, 0).value();
    for (int i = 0; i <= 2000; ++i) {
      const double x = std::pow(0.01, i / 2000.0);
      EXPECT_GT(Composed(table, x), range.low) << range.name << " at " << x;
      EXPECT_LT(Composed(table, x), range.high) << range.name << " at " << x;
    }
  }
}

TEST(CoefficientsTest, StepsCutOrRepeatTheLastRow) {
  EXPECT_EQ(FindCoefficientTable("jordan", 0)->steps.size(), 5u);
  EXPECT_EQ(FindCoefficientTable("deepseek_v4", 0)->steps.size(), 10u);
  EXPECT_EQ(FindCoefficientTable("polar_express_101", 5)->steps.size(), 5u);
  const CoefficientTable longer = FindCoefficientTable("cans", 7).value();
  ASSERT_EQ(longer.steps.size(), 7u);
  EXPECT_EQ(longer.steps[6].a, 2.2737);
  EXPECT_EQ(longer.name, "cans");
}

TEST(CoefficientsTest, ThePolarExpressesDiffer) {
  const auto first = [](const char* name) { return FindCoefficientTable(name, 0)->steps[0].a; };
  EXPECT_NEAR(first("polar_express_105"), 8.28721201814563 / 1.05, 1e-12);
  EXPECT_NEAR(first("polar_express_102"), 8.156554524902461 / 1.02, 1e-12);
  EXPECT_EQ(first("polar_express_101"), 8.2051);
}

TEST(CoefficientsTest, UnknownNamesAndTooManyStepsAreRefused) {
  const absl::Status unknown = FindCoefficientTable("polar_express", 5).status();
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_THAT(std::string(unknown.message()), ::testing::HasSubstr("polar_express_105"));
  const absl::Status many = FindCoefficientTable("jordan", 100).status();
  EXPECT_TRUE(absl::IsInvalidArgument(many));
  EXPECT_THAT(std::string(many.message()), ::testing::HasSubstr("100"));
  EXPECT_TRUE(FindCoefficientTable("jordan", 99).ok());
}

TEST(CoefficientsTest, CustomTablesAreChecked) {
  const Coefficients good{3, -3, 1}, bad{3, std::numeric_limits<double>::quiet_NaN(), 1};
  EXPECT_EQ(CustomCoefficientTable({good, good}, 4)->steps.size(), 4u);
  EXPECT_TRUE(absl::IsInvalidArgument(CustomCoefficientTable({}, 4).status()));
  EXPECT_THAT(std::string(CustomCoefficientTable({good, bad}, 0).status().message()),
              ::testing::HasSubstr("row 1"));
  EXPECT_TRUE(absl::IsInvalidArgument(
      CustomCoefficientTable(std::vector<Coefficients>(100, good), 0).status()));
}

}  // namespace
}  // namespace muond
