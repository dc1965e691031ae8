#include "kernels/ops/binned_sum.h"

#include <bit>
#include <cmath>

namespace muond {
namespace {

constexpr uint64_t kLow32 = 0xffffffffu;

}  // namespace

// Windows are kept below 2^63 by moving their upper halves on as soon as bit 63 is reached.
void BinnedSum::AddSquare(double value) {
  const double square = value * value;  // exact: 24 + 24 bits
  if (square == 0) return;
  int exponent = 0;
  const double fraction = std::frexp(square, &exponent);  // [0.5, 1)
  uint64_t mantissa = static_cast<uint64_t>(std::ldexp(fraction, 53));
  int lowest = exponent - 53 - kLowestExponent;  // position of the mantissa's bit 0
  const int trailing = std::countr_zero(mantissa);
  mantissa >>= trailing;  // at most 48 bits are left
  lowest += trailing;
  int window = lowest / 32;
  const int shift = lowest % 32;
  // 48 bits shifted by up to 31 span at most three windows.
  const unsigned __int128 placed = static_cast<unsigned __int128>(mantissa) << shift;
  for (int part = 0; part < 3; ++part) {
    const uint64_t bits = static_cast<uint64_t>(placed >> (32 * part)) & kLow32;
    if (bits == 0) continue;
    windows[window + part] += bits;
    if (windows[window + part] >> 63) Normalize();
  }
}

void BinnedSum::AddUnits(const int64_t* units, const int* exponents, int count) {
  Normalize();
  std::array<int64_t, kWindows> digits{};
  for (int i = 0; i < count; ++i) {
    const int position = exponents[i] - kLowestExponent;
    const __int128 placed =
        static_cast<__int128>(units[i]) * (__int128{1} << (position % 32));  // < 2^93
    const int window = position / 32;
    digits[window] += static_cast<int64_t>(static_cast<uint64_t>(placed) & kLow32);
    digits[window + 1] += static_cast<int64_t>(static_cast<uint64_t>(placed >> 32) & kLow32);
    digits[window + 2] += static_cast<int64_t>(placed >> 64);  // the sign is here
  }
  int64_t carry = 0;
  for (int i = 0; i < kWindows; ++i) {
    const int64_t total = static_cast<int64_t>(windows[i]) + digits[i] + carry;
    windows[i] = static_cast<uint64_t>(total) & kLow32;
    carry = total >> 32;  // rounds down: a negative total borrows
  }
}

void BinnedSum::Add(const BinnedSum& other) {
  BinnedSum addend = other;
  addend.Normalize();
  Normalize();
  for (int i = 0; i < kWindows; ++i) windows[i] += addend.windows[i];
  Normalize();
}

void BinnedSum::Normalize() {
  uint64_t carry = 0;
  for (int i = 0; i < kWindows; ++i) {
    const uint64_t low = (windows[i] & kLow32) + carry;  // carry < 2^33
    const uint64_t high = windows[i] >> 32;
    if (i + 1 == kWindows) {
      windows[i] = low + (high << 32);  // 2^320 and above: never reached by squares of fp32
      return;
    }
    windows[i] = low & kLow32;
    carry = high + (low >> 32);
  }
}

double BinnedSum::Value() const {
  BinnedSum sum = *this;
  sum.Normalize();
  int top = kWindows - 1;
  while (top >= 0 && sum.windows[top] == 0) --top;
  if (top < 0) return 0;
  // The top 64 bits of the number, and a sticky bit for all below: then one correctly rounded conversion.
  unsigned __int128 head = 0;
  for (int i = top; i > top - 3; --i) head = (head << 32) | (i >= 0 ? sum.windows[i] : 0);
  bool sticky = false;
  for (int i = top - 3; i >= 0; --i) sticky |= sum.windows[i] != 0;
  int exponent = kLowestExponent + 32 * (top - 2);
  while (head >> 64) {
    sticky |= (head & 1) != 0;
    head >>= 1;
    ++exponent;
  }
  const uint64_t bits = static_cast<uint64_t>(head) | (sticky ? 1 : 0);
  return std::ldexp(static_cast<double>(bits), exponent);
}

}  // namespace muond
