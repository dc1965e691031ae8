#include "kernels/ops/binned_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/ops/cpu/passes.h"
#include "kernels/ops/cpu/run.h"

namespace muond {
namespace {

// Every exponent of fp32, subnormals included.
std::vector<float> WideValues(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) {
    const uint32_t bits = random();
    value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) value = 1;
  }
  return values;
}

BinnedSum SumOf(const std::vector<float>& values) {
  BinnedSum sum;
  for (float value : values) sum.AddSquare(value);
  sum.Normalize();
  return sum;
}

TEST(BinnedSumTest, OneSquareIsExact) {
  for (float value :
       {0.0f, 1.0f, -3.0f, 1e-45f, 1.1754944e-38f, 3.4028235e38f, 1.0000001f, 0.1f, -2.5e-20f}) {
    BinnedSum sum;
    sum.AddSquare(value);
    EXPECT_EQ(sum.Value(), static_cast<double>(value) * static_cast<double>(value)) << value;
  }
}

TEST(BinnedSumTest, NeitherOrderNorGroupingMatters) {
  std::vector<float> values = WideValues(5000, 1);
  const BinnedSum expected = SumOf(values);
  std::mt19937 random(2);
  for (int round = 0; round < 20; ++round) {
    std::shuffle(values.begin(), values.end(), random);
    BinnedSum total;
    for (size_t i = 0; i < values.size();) {
      const size_t end = std::min(values.size(), i + random() % 900);
      total.Add(SumOf({values.begin() + static_cast<ptrdiff_t>(i),
                       values.begin() + static_cast<ptrdiff_t>(end)}));
      i = end;
    }
    EXPECT_EQ(total.windows, expected.windows);
  }
}

TEST(BinnedSumTest, ValueIsTheNearestDouble) {
  BinnedSum sum;
  sum.AddSquare(1);
  for (int i = 0; i < 3; ++i)
    sum.AddSquare(std::ldexp(1.0, -27));  // 3 2^-54: above half of the last bit, 2^-52
  EXPECT_EQ(sum.Value(), 1 + 0x1p-52);
  BinnedSum tie;
  tie.AddSquare(1);
  tie.AddSquare(std::ldexp(1.0, -27));
  tie.AddSquare(std::ldexp(1.0, -27));  // 2^-53 exactly: to even
  EXPECT_EQ(tie.Value(), 1);
  tie.AddSquare(1e-40f);  // the least above a tie
  EXPECT_EQ(tie.Value(), 1 + 0x1p-52);
}

TEST(BinnedSumTest, CountersCarryLongBeforeTheyOverflow) {
  BinnedSum sum;
  sum.AddSquare(std::numeric_limits<float>::max());
  for (int doubling = 0; doubling < 40; ++doubling) sum.Add(BinnedSum(sum));
  const double square = std::pow(static_cast<double>(std::numeric_limits<float>::max()), 2);
  EXPECT_EQ(sum.Value(), std::ldexp(square, 40));
}

TEST(BinnedSumTest, TheVectorPassAgreesBitForBit) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(seed);
    const size_t count = 1 + random() % static_cast<uint32_t>(cpu::kRun);
    std::vector<float> values = WideValues(count, seed);
    if (seed % 3 == 0) {  // like a gradient
      std::normal_distribution<float> normal(0, 1e-3f);
      for (float& value : values) value = normal(random);
    }
    if (seed % 5 == 0) std::fill(values.begin(), values.end(), seed % 2 ? 3.4028235e38f : 1e-45f);
    if (seed % 7 == 0) {  // full mantissas, at and around the widest spread that one sweep takes
      for (size_t i = 0; i < count; ++i) {
        const int exponent = i % 3 == 0 ? 30 : 30 - 16 - static_cast<int>(seed / 7 % 5);
        values[i] = std::ldexp(2.0f - 0x1p-23f * (random() % 64), exponent - 60 * (seed % 2));
      }
    }
    const BinnedSum expected = SumOf(values);
    std::vector<float> with_others = values;
    if (count < static_cast<size_t>(cpu::kRun))
      with_others.push_back(std::numeric_limits<float>::quiet_NaN());
    cpu::SquareTerms terms;
    cpu::ExactSquares(with_others.data(), static_cast<int64_t>(with_others.size()), terms);
    ASSERT_LE(terms.count, cpu::kSquareTerms);
    BinnedSum sum;
    sum.AddUnits(terms.units, terms.exponents, terms.count);
    EXPECT_EQ(sum.windows, expected.windows) << "seed " << seed;
  }
}

}  // namespace
}  // namespace muond
