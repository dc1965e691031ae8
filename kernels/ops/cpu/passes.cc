// Compiled with -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math (see CMakeLists.txt): the compiler vectorises these
// loops, and may not fuse or reorder them.
#include "kernels/ops/cpu/passes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/ops/convert.h"
#include "kernels/ops/cpu/run.h"

// Sanitizers start after the resolvers of cloned functions run, so they get the portable path alone.
#if defined(MUOND_CLONES)
// A test compiles this file once more, for the plainest instruction set.
#elif defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define MUOND_CLONES __attribute__((target_clones("default", "avx2")))
#else
#define MUOND_CLONES
#endif

namespace muond::cpu {

MUOND_CLONES void BFloat16ToFloatRun(const uint16_t* source, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = BFloat16ToFloat(source[i]);
}
MUOND_CLONES void Float16ToFloatRun(const uint16_t* source, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Float16ToFloat(source[i]);
}
MUOND_CLONES void FloatToBFloat16Run(const float* source, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = FloatToBFloat16(source[i]);
}
MUOND_CLONES void FloatToFloat16Run(const float* source, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = FloatToFloat16(source[i]);
}

void ToFloat(const void* source, DType dtype, int64_t count, float* out) {
  switch (dtype) {
    case DType::kFloat32:
      std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBFloat16:
      return BFloat16ToFloatRun(static_cast<const uint16_t*>(source), count, out);
    case DType::kFloat16:
      return Float16ToFloatRun(static_cast<const uint16_t*>(source), count, out);
  }
}

void FromFloat(const float* source, int64_t count, DType dtype, void* out) {
  switch (dtype) {
    case DType::kFloat32:
      std::memcpy(out, source, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBFloat16:
      return FloatToBFloat16Run(source, count, static_cast<uint16_t*>(out));
    case DType::kFloat16:
      return FloatToFloat16Run(source, count, static_cast<uint16_t*>(out));
  }
}

MUOND_CLONES void AddInPlace(const float* addend, int64_t count, float* sum) {
  for (int64_t i = 0; i < count; ++i) sum[i] += addend[i];
}

MUOND_CLONES void ScaleInPlace(float factor, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

MUOND_CLONES int64_t CountNonFinite(const float* values, int64_t count) {
  int32_t found = 0;  // count <= kRun
  for (int64_t i = 0; i < count; ++i) {
    found += (std::bit_cast<uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u ? 1 : 0;
  }
  return found;
}

// The four shapes of the momentum update: torch's lerp starts from the nearer end, so that weights 0 and 1 are exact.
MUOND_CLONES void DirectionRun(const DirectionFactors& factors, const float* gradient,
                               const float* momentum_in, int64_t count, float* momentum_out,
                               float* direction) {
  const float scale = factors.gradient_scale;
  const float to_g = factors.to_gradient;
  const float from_g = factors.from_gradient;
  const bool near_m = to_g < 0.5f;    // lerp(m, g, 1 - mu)
  const bool near_g = from_g < 0.5f;  // lerp(g, m, mu)
  const float m_weight = near_m ? to_g : to_g - 1;
  const float u_weight = near_g ? from_g : from_g - 1;
  const bool nesterov = factors.nesterov;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float g = scale * gradient[i];
    const float old = momentum_in[i];
    const float m = (near_m ? old : g) + m_weight * (g - old);
    const float u = (near_g ? g : m) + u_weight * (m - g);
    momentum_out[i] = m;
    direction[i] = nesterov ? u : m;
  }
}

MUOND_CLONES double SumOfSquares(const float* values, int64_t count) {
  constexpr int kLanes = 16;
  double lanes[kLanes] = {};
  const int64_t whole = count - count % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const double value = values[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (int64_t i = whole; i < count; ++i) {
    const double value = values[i];
    lanes[i - whole] += value * value;
  }
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

namespace {

// Vectors are spelled out here: the compiler does not keep arrays of lanes in registers by itself.
typedef double Lanes __attribute__((vector_size(32)));
constexpr int kLanes = 8;       // two vectors in flight
constexpr int kLevels = 3;      // of 32 bits each, in one pass
constexpr int kLevelBits = 32;  // kRun / kLanes * 2^32 < 2^53: the lanes' sums are exact

struct Levels {
  double anchor[kLevels];  // 1.5 2^(52 + e): adding and subtracting it rounds to a multiple of 2^e
  double sum[kLevels];     // of the multiples, exact
  bool rest;               // something is left
};

// Cuts every value into multiples of 2^e for the levels' e, largest first, and leaves in `values` what remains. Exact.
MUOND_CLONES void CutLevels(double* values, int64_t count, Levels& levels) {
  Lanes sum[kLevels][2] = {};
  Lanes rest[2] = {};
  const double anchors[kLevels] = {levels.anchor[0], levels.anchor[1], levels.anchor[2]};
  for (int64_t i = 0; i < count; i += kLanes) {
    for (int half = 0; half < 2; ++half) {
      Lanes value;
      std::memcpy(&value, values + i + 4 * half, sizeof(value));
      for (int level = 0; level < kLevels; ++level) {
        const Lanes part = (value + anchors[level]) - anchors[level];
        sum[level][half] += part;
        value -= part;
      }
      rest[half] += value * value;  // of values >= 2^-298 in size: zero only when all are
      std::memcpy(values + i + 4 * half, &value, sizeof(value));
    }
  }
  for (int level = 0; level < kLevels; ++level) {
    const Lanes both = sum[level][0] + sum[level][1];
    levels.sum[level] = (both[0] + both[1]) + (both[2] + both[3]);
  }
  const Lanes both = rest[0] + rest[1];
  levels.rest = both[0] + both[1] + both[2] + both[3] != 0;
}

// The common run in one sweep: no finite value but 0 lies kNarrow binades or more below the largest. Then every square is a
// multiple of `units[0]` = 2^e and a rest of less, whose sums over a run both fit 53 bits.
constexpr int kNarrow = 18;
typedef int32_t Bits4 __attribute__((vector_size(16)));
typedef float Floats4 __attribute__((vector_size(16)));

// Adds up the squares of the finite values: multiples of the anchor's unit, and rests. False, with useless sums, when a value other than 0
// is smaller than `least` (as bits).
// REQUIRES: count is a multiple of kLanes.
MUOND_CLONES bool NarrowSquares(const float* values, int64_t count, uint32_t least, double anchor,
                                double* multiples, double* rests) {
  Lanes sum[2] = {}, rest[2] = {};
  Bits4 small = {};
  const Bits4 magnitude_mask = Bits4{} + 0x7fffffff;
  const Bits4 infinity = Bits4{} + 0x7f800000;
  const Bits4 smallest = Bits4{} + static_cast<int32_t>(least);
  for (int64_t i = 0; i < count; i += kLanes) {
    for (int half = 0; half < 2; ++half) {
      Bits4 bits;
      std::memcpy(&bits, values + i + 4 * half, sizeof bits);
      bits &= magnitude_mask;
      bits &= bits < infinity;
      small |= (bits < smallest) & (bits != 0);
      Floats4 finite;
      std::memcpy(&finite, &bits, sizeof finite);
      const Lanes value = __builtin_convertvector(finite, Lanes);
      const Lanes square = value * value;
      const Lanes part = (square + anchor) - anchor;
      sum[half] += part;
      rest[half] += square - part;
    }
  }
  const Lanes all = sum[0] + sum[1], left = rest[0] + rest[1];
  *multiples += (all[0] + all[1]) + (all[2] + all[3]);
  *rests += (left[0] + left[1]) + (left[2] + left[3]);
  return (small[0] | small[1] | small[2] | small[3]) == 0;
}

// The bits of the largest finite magnitude. Signed: vectors of unsigned numbers have no maximum before AVX-512.
MUOND_CLONES uint32_t LargestFinite(const float* values, int64_t count) {
  int32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t magnitude = std::bit_cast<int32_t>(values[i]) & 0x7fffffff;
    const int32_t finite = magnitude < 0x7f800000 ? magnitude : 0;
    largest = std::max(largest, finite);
  }
  return static_cast<uint32_t>(largest);
}

// Squares of the finite values, zeros for the others.
MUOND_CLONES void Squares(const float* values, int64_t count, double* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
    const double value = std::bit_cast<float>(magnitude < 0x7f800000u ? magnitude : 0);
    out[i] = value * value;
  }
}

// Every square is below 2^top, and a run has 2^11 of them: sums of multiples of 2^(top - 42) have 53 bits, and so have sums of
// the rests, down to 2^(top - 85). A value of 2^q has a square whose lowest bit is 2^(2q - 46): it may be kNarrow binades below
// the largest.
bool NarrowTerms(const float* values, int64_t count, uint32_t largest, int lowest_bit,
                 SquareTerms& terms) {
  static_assert(kRun <= 1 << 11);
  const int exponent = std::ilogb(std::bit_cast<float>(largest));
  const int top = 2 * (exponent + 1);
  const int units[2] = {std::max(top - 42, lowest_bit), std::max(top - 85, lowest_bit)};
  const float least = std::ldexp(1.0f, exponent - kNarrow);  // 0 where every value is large enough
  const double anchor = std::ldexp(1.5, 52 + units[0]);
  const int64_t whole = count / kLanes * kLanes;
  float last[kLanes] = {};
  std::copy(values + whole, values + count, last);
  double sums[2] = {};
  for (const auto& [from, length] :
       {std::pair(values, whole), std::pair<const float*, int64_t>(last, kLanes)}) {
    if (!NarrowSquares(from, length, std::bit_cast<uint32_t>(least), anchor, &sums[0], &sums[1])) {
      return false;
    }
  }
  for (int i = 0; i < 2; ++i) {
    terms.units[terms.count] = static_cast<int64_t>(std::ldexp(sums[i], -units[i]));
    terms.exponents[terms.count++] = units[i];
  }
  return true;
}

}  // namespace

void ExactSquares(const float* values, int64_t count, SquareTerms& terms) {
  constexpr int kLowestBit = -298;  // squares of fp32 are multiples of 2^-298
  terms.count = 0;
  const uint32_t largest = LargestFinite(values, count);
  if (largest == 0) return;
  if (NarrowTerms(values, count, largest, kLowestBit, terms)) return;
  alignas(64) double rest[kRun];
  Squares(values, count, rest);
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = count; i < padded; ++i) rest[i] = 0;
  // Every square is below 2^top.
  int top = 2 * (std::ilogb(std::bit_cast<float>(largest)) + 1);
  bool left = true;
  while (left && top > kLowestBit) {
    Levels levels{};
    int exponents[kLevels];
    for (int level = 0; level < kLevels; ++level) {
      top -= kLevelBits;
      exponents[level] = top < kLowestBit ? kLowestBit : top;
      levels.anchor[level] = std::ldexp(1.5, 52 + exponents[level]);
    }
    CutLevels(rest, padded, levels);
    left = levels.rest;
    for (int level = 0; level < kLevels; ++level) {
      if (levels.sum[level] == 0) continue;
      terms.units[terms.count] =
          static_cast<int64_t>(std::ldexp(levels.sum[level], -exponents[level]));
      terms.exponents[terms.count++] = exponents[level];
    }
  }
}

MUOND_CLONES void ApplyRun(float decay, float rate, const float* parameter, const float* update,
                           int64_t count, float* out) {
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float decayed = decay * parameter[i];
    out[i] = decayed - rate * update[i];
  }
}

MUOND_CLONES void AdamWRun(const AdamWFactors& factors, const float* gradient,
                           const float* parameter, const float* exp_avg_in,
                           const float* exp_avg_sq_in, int64_t count, float* exp_avg_out,
                           float* exp_avg_sq_out, float* out) {
  const AdamWFactors f = factors;
  const bool near_m = f.to_gradient < 0.5f;
  const float m_weight = near_m ? f.to_gradient : f.to_gradient - 1;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    const float g = f.gradient_scale * gradient[i];
    const float old = exp_avg_in[i];
    const float m = (near_m ? old : g) + m_weight * (g - old);
    const float v = f.beta2 * exp_avg_sq_in[i] + f.to_square * g * g;
    const float denominator = std::sqrt(v) / f.root_correction + f.eps;
    const float decayed = f.decay * parameter[i];
    exp_avg_out[i] = m;
    exp_avg_sq_out[i] = v;
    out[i] = decayed - f.step_size * m / denominator;
  }
}

}  // namespace muond::cpu
