// The bits of a pass do not depend on the instruction set that runs it.
#include "kernels/ops/cpu/passes.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/ops/convert.h"
#include "tests/support/device_array.h"
#include "tests/unit/kernels/ops/portable_passes.h"

namespace muond::testing {
namespace {

constexpr int64_t kCount = 1999;

std::vector<float> Normal(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(kCount);
  for (float& value : values) value = normal(random);
  return values;
}

TEST(PassesTest, DirectionHasTheSameBitsOnEveryPath) {
  const std::vector<float> g = Normal(1), m = Normal(2);
  for (float mu : {0.95f, 0.3f, 0.5f}) {
    for (bool nesterov : {true, false}) {
      std::vector<float> m1(kCount), u1(kCount), m2(kCount), u2(kCount);
      cpu::DirectionRun({0.7f, 1 - mu, mu, nesterov}, g.data(), m.data(), kCount, m1.data(),
                        u1.data());
      PortableDirection(0.7f, mu, nesterov, g.data(), m.data(), kCount, m2.data(), u2.data());
      EXPECT_TRUE(SameBits(m1, m2));
      EXPECT_TRUE(SameBits(u1, u2));
    }
  }
}

TEST(PassesTest, TheNormHasTheSameBitsOnEveryPath) {
  const std::vector<float> values = Normal(3);
  for (int64_t count : {1, 15, 16, 17, 1000, 1999}) {
    EXPECT_EQ(cpu::SumOfSquares(values.data(), count), PortableSumOfSquares(values.data(), count))
        << count;
  }
}

TEST(PassesTest, ApplyAndAdamWHaveTheSameBitsOnEveryPath) {
  const std::vector<float> g = Normal(4), p = Normal(5), m = Normal(6);
  std::vector<float> v = Normal(7);
  for (float& value : v) value *= value;
  std::vector<float> a(kCount), b(kCount), m1(kCount), m2(kCount), v1(kCount), v2(kCount);
  cpu::ApplyRun(0.998f, 0.03f, p.data(), g.data(), kCount, a.data());
  PortableApply(0.998f, 0.03f, p.data(), g.data(), kCount, b.data());
  EXPECT_TRUE(SameBits(a, b));
  cpu::AdamWFactors factors;
  factors.step_size = 1e-3f;
  cpu::AdamWRun(factors, g.data(), p.data(), m.data(), v.data(), kCount, m1.data(), v1.data(),
                a.data());
  PortableAdamW(1e-3f, g.data(), p.data(), m.data(), v.data(), kCount, m2.data(), v2.data(),
                b.data());
  EXPECT_TRUE(SameBits(a, b));
  EXPECT_TRUE(SameBits(m1, m2));
  EXPECT_TRUE(SameBits(v1, v2));
}

TEST(PassesTest, EveryHalfGoesToFloatAndBack) {
  for (DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (uint32_t first = 0; first < 65536; first += 1024) {
      std::vector<uint16_t> halves(1024), back(1024), portable_back(1024);
      for (uint32_t i = 0; i < 1024; ++i) halves[i] = static_cast<uint16_t>(first + i);
      std::vector<float> floats(1024), portable(1024);
      cpu::ToFloat(halves.data(), dtype, 1024, floats.data());
      PortableToFloat(halves.data(), dtype, 1024, portable.data());
      EXPECT_TRUE(SameBits(floats, portable));
      cpu::FromFloat(floats.data(), 1024, dtype, back.data());
      PortableFromFloat(floats.data(), 1024, dtype, portable_back.data());
      EXPECT_TRUE(SameBits(back, portable_back));
      for (uint32_t i = 0; i < 1024; ++i) {
        EXPECT_TRUE(std::isnan(floats[i]) || back[i] == halves[i]) << halves[i];
      }
    }
  }
}

// The neighbours of every boundary between two halves: rounding is to nearest, ties to even.
TEST(PassesTest, RoundingToHalfIsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = Float16ToFloat(static_cast<uint16_t>(bits));
    const float high = Float16ToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(FloatToFloat16(middle), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(FloatToFloat16(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(FloatToFloat16(std::nextafter(middle, 1e9f)), bits + 1);
  }
  EXPECT_EQ(FloatToFloat16(65519.9f), 0x7bff);
  EXPECT_EQ(FloatToFloat16(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToFloat16(1e-10f), 0);
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const uint32_t middle = (bits << 16) | 0x8000u;
    EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(middle)), bits % 2 == 0 ? bits : bits + 1);
    EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(middle - 1)), bits);
    EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(middle + 1)), bits + 1);
  }
}

}  // namespace
}  // namespace muond::testing
