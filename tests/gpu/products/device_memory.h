// Device memory for tests, freed with its owner; 16-bit floats on the host.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops/ops.h"

namespace muond::test {

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(T)), cudaSuccess);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice(OnDevice&& other) noexcept : data_(other.data_), count_(other.count_) {
    other.data_ = nullptr;
  }
  ~OnDevice() { cudaFree(data_); }
  T* data() const { return data_; }
  size_t size() const { return count_; }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    const cudaError_t error =
        cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

inline float HalfToFloat(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                          : exponent == 31
                              ? (mantissa ? NAN : INFINITY)
                              : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25);
  return (h & 0x8000) ? -magnitude : magnitude;
}
inline uint16_t FloatToHalf(float x) {  // nearest even
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7e00;
  if (magnitude == 0) return sign;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude in [2^(exponent-1), 2^exponent)
  const int shift = std::max(exponent - 11, -24);
  const auto units = static_cast<uint32_t>(std::lrint(std::ldexp(magnitude, -shift)));
  if (shift == -24)
    return static_cast<uint16_t>(sign | units);  // subnormal, or just above: the encodings meet
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(shift + 25) << 10) + (units - 1024)));
}
inline float BFloatToFloat(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
inline uint16_t FloatToBFloat(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(x));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Tests of the sm_90a kernels run on that architecture only, and say so elsewhere.
inline bool HasHopper() {
  int count = 0, major = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) return false;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  return major == 9;
}

}  // namespace muond::test
