// Simt: CUDA device code as C++, one CTA after the other, its threads as fibers that take turns.
//
// A thread runs until a collective; it goes on when its warp (shuffles, votes, reductions) or its CTA (__syncthreads) is there.
// The order of threads changes from turn to turn. Rounding modes are honoured: compile with -frounding-math.
// Threads: one at a time may launch.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <ucontext.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <vector>

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

namespace muond::simt {

struct Index {
  unsigned x, y, z;
};
struct Fiber {
  ucontext_t context;
  Index thread;
  bool done;
  std::vector<char> stack;
};
struct Warp {
  int arrived = 0;
  unsigned generation = 0;
  uint64_t values[32];
};

// The thread that runs, and where it stands.
extern Fiber* current;
extern Index block, grid, dim;

// Runs `body` in every thread of every CTA. `threads`: a multiple of 32.
void Launch(int64_t ctas, int threads, const std::function<void()>& body);
Warp& MyWarp();
void MeetWarp();
void MeetBlock();

template <class T>
T Exchange(T value, int from, bool valid) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  MyWarp().values[current->thread.x % 32] = bits;
  MeetWarp();
  if (valid) std::memcpy(&value, &MyWarp().values[from], sizeof(T));
  MeetWarp();
  return value;
}
template <class Combine>
uint64_t Reduce(uint64_t value, Combine combine) {
  MyWarp().values[current->thread.x % 32] = value;
  MeetWarp();
  uint64_t result = 0;
  for (int lane = 0; lane < 32; ++lane) result = combine(result, MyWarp().values[lane], lane);
  MeetWarp();
  return result;
}
template <class Compute>
double TowardsZero(Compute compute) {
  std::fesetround(FE_TOWARDZERO);
  const volatile double result = compute();
  std::fesetround(FE_TONEAREST);
  return result;
}

}  // namespace muond::simt

#define threadIdx (muond::simt::current->thread)
#define blockIdx (muond::simt::block)
#define gridDim (muond::simt::grid)
#define blockDim (muond::simt::dim)

inline void __syncthreads() { muond::simt::MeetBlock(); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return std::bit_cast<float>(value); }
inline float __int_as_float(int value) { return std::bit_cast<float>(value); }
inline long long __double_as_longlong(double value) { return std::bit_cast<long long>(value); }
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(uint64_t{static_cast<unsigned>(high)} << 32 |
                               static_cast<unsigned>(low));
}
inline int __double2hiint(double value) {
  return static_cast<int>(std::bit_cast<uint64_t>(value) >> 32);
}
inline double __fma_rz(double a, double b, double c) {
  const volatile double x = a, y = b, z = c;
  return muond::simt::TowardsZero([&] { return std::fma(x, y, z); });
}
inline double __dadd_rz(double a, double b) {
  const volatile double x = a, y = b;
  return muond::simt::TowardsZero([&] { return x + y; });
}
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dsub_rn(double a, double b) { return a - b; }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  shift %= 32;
  return shift == 0 ? high : high << shift | low >> (32 - shift);
}
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
inline unsigned __reduce_add_sync(unsigned, unsigned value) {
  return static_cast<unsigned>(
      muond::simt::Reduce(value, [](uint64_t a, uint64_t b, int) { return a + b; }));
}
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  return static_cast<unsigned>(
      muond::simt::Reduce(value, [](uint64_t a, uint64_t b, int) { return std::max(a, b); }));
}
inline unsigned __ballot_sync(unsigned, bool value) {
  return static_cast<unsigned>(
      muond::simt::Reduce(value, [](uint64_t a, uint64_t b, int lane) { return a | b << lane; }));
}
inline bool __any_sync(unsigned mask, bool value) { return __ballot_sync(mask, value) != 0; }
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return muond::simt::Exchange(value, from % 32, true);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by) {
  const int from = static_cast<int>(threadIdx.x % 32) + by;
  return muond::simt::Exchange(value, from, from < 32);
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}
inline void __threadfence_system() {}
template <class A, class B>
auto min(A a, B b) {
  using Common = std::common_type_t<A, B>;
  return std::min<Common>(a, b);
}
template <class A, class B>
auto max(A a, B b) {
  using Common = std::common_type_t<A, B>;
  return std::max<Common>(a, b);
}
inline double rsqrt(double value) { return 1 / std::sqrt(value); }
using std::fma;
using std::isfinite;
using std::ldexp;
using std::pow;
using std::sqrt;

#define __CUDACC__ 1  // the lists' device side
#include "kernels/ops/cuda/task_list.h"
#undef __CUDACC__
