// BinnedSum: a sum of squares whose bits do not depend on the order or grouping of the additions.
//
// The square of an fp32, bf16 or fp16 number is exact in fp64 (24+24 bits of mantissa). Each square is cut at
// fixed bit positions into windows of 32 bits, and every window has its own 64-bit integer counter: integer
// addition is associative, so any split of the elements over threads, devices and ranks gives equal counters.
// Up to 2^31 additions fit a counter before its carry is moved up; Add() moves carries itself.
// Source of the idea: reproducible summation by bins (Demmel and Nguyen, "Parallel Reproducible Summation").
#pragma once

#include <array>
#include <cstdint>

namespace muond {

struct BinnedSum {
  // Squares of finite fp32 lie in [2^-298, 2^256): windows of 32 bits from 2^-320 to 2^320 hold every sum.
  static constexpr int kWindows = 20;
  static constexpr int kLowestExponent = -320;

  std::array<uint64_t, kWindows>
      windows{};  // windows[i] counts units of 2^(kLowestExponent + 32 i)

  void AddSquare(double value);  // value: an fp32-representable finite number
  // The sum's own value grows by units[i] 2^exponents[i], which are >= 2^-298; single terms may be negative, all of
  // them together not. |units[i]| < 2^62.
  void AddUnits(const int64_t* units, const int* exponents, int count);
  void Add(const BinnedSum& other);  // merges; carries are moved up
  void Normalize();                  // carries up, so that equal sums have equal windows
  double Value() const;              // the nearest fp64; a function of the normalized windows
};

}  // namespace muond
