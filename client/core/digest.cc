#include "client/core/digest.h"

#include <algorithm>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace muond {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr int kLanes = 8;
constexpr size_t kStripeBytes = kLanes * sizeof(uint64_t);
constexpr uint64_t kStripesBetweenMixes = 16;
constexpr size_t kPieceBytes = 16 << 10;
static_assert(kPieceBytes % (kStripeBytes * kStripesBetweenMixes) == 0);

// Odd constants without structure: fractional digits of the square roots of the first primes, the
// last bit set.
constexpr uint64_t kKeys[kLanes] = {0x6a09e667f3bcc909, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                                    0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f,
                                    0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr uint64_t kStep =
    0x9e3779b97f4a7c15;  // 2^64 over the golden ratio: stripe keys never repeat
constexpr uint64_t kMixPrime =
    0x9e3779b1;  // 32 bits: a lane's product needs two vector multiplications

struct State {
  uint64_t lanes[kLanes];
  uint64_t stripe = 0;
};

// `stripes` whole stripes. Mixes where the count of stripes since the start says so.
void RunPlain(State* state, const unsigned char* data, size_t stripes) {
  uint64_t* acc = state->lanes;
  for (size_t s = 0; s < stripes; ++s, data += kStripeBytes) {
    uint64_t d[kLanes];
    std::memcpy(d, data, sizeof(d));
    const uint64_t shift = state->stripe * kStep;
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t x = d[i] ^ (kKeys[i] + shift);
      acc[i] += (x & 0xffffffff) * (x >> 32) + std::rotl(d[i ^ 1], 23);
    }
    if (++state->stripe % kStripesBetweenMixes == 0) {
      for (int i = 0; i < kLanes; ++i) acc[i] = (acc[i] ^ acc[i] >> 29 ^ kKeys[i]) * kMixPrime;
    }
  }
}

#if defined(__x86_64__)
// The same, four lanes a register.
__attribute__((target("avx2"))) void RunAvx2(State* state, const unsigned char* data,
                                             size_t stripes) {
  constexpr int kRegisters = kLanes / 4;
  const auto* keys = reinterpret_cast<const __m256i*>(kKeys);
  auto* lanes = reinterpret_cast<__m256i*>(state->lanes);
  __m256i acc[kRegisters], key[kRegisters];
  for (int r = 0; r < kRegisters; ++r) {
    acc[r] = _mm256_loadu_si256(lanes + r);
    key[r] = _mm256_loadu_si256(keys + r);
  }
  const __m256i prime = _mm256_set1_epi64x(kMixPrime);
  for (size_t s = 0; s < stripes; ++s, data += kStripeBytes) {
    const __m256i shift = _mm256_set1_epi64x(static_cast<int64_t>(state->stripe * kStep));
    for (int r = 0; r < kRegisters; ++r) {
      const __m256i d = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data) + r);
      const __m256i x = _mm256_xor_si256(d, _mm256_add_epi64(key[r], shift));
      const __m256i product = _mm256_mul_epu32(x, _mm256_srli_epi64(x, 32));
      const __m256i swapped = _mm256_permute4x64_epi64(d, 0xb1);  // lanes 1 0 3 2
      const __m256i turned =
          _mm256_or_si256(_mm256_slli_epi64(swapped, 23), _mm256_srli_epi64(swapped, 41));
      acc[r] = _mm256_add_epi64(acc[r], _mm256_add_epi64(product, turned));
    }
    if (++state->stripe % kStripesBetweenMixes != 0) continue;
    for (int r = 0; r < kRegisters; ++r) {
      const __m256i x =
          _mm256_xor_si256(_mm256_xor_si256(acc[r], _mm256_srli_epi64(acc[r], 29)), key[r]);
      const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), prime);
      acc[r] = _mm256_add_epi64(_mm256_mul_epu32(x, prime), _mm256_slli_epi64(high, 32));
    }
  }
  for (int r = 0; r < kRegisters; ++r) _mm256_storeu_si256(lanes + r, acc[r]);
}
#endif

void Run(State* state, const unsigned char* data, size_t stripes) {
#if defined(__x86_64__)
  static const bool has_avx2 = __builtin_cpu_supports("avx2");
  if (has_avx2) return RunAvx2(state, data, stripes);
#endif
  RunPlain(state, data, stripes);
}

uint64_t Mix(uint64_t x) {
  x ^= x >> 31;
  x *= 0xd6e8feb86659fd93;
  x ^= x >> 29;
  x *= 0xa0761d6478bd642f;
  return x ^ x >> 32;
}

State Start() {
  State state;
  std::memcpy(state.lanes, kKeys, sizeof(kKeys));
  return state;
}

uint64_t Finish(State* state, const unsigned char* tail, size_t tail_bytes, size_t size_bytes) {
  if (tail_bytes > 0) {
    unsigned char last[kStripeBytes] = {};
    std::memcpy(last, tail, tail_bytes);
    Run(state, last, 1);
  }
  uint64_t result = Mix(size_bytes + kStep);
  for (int i = 0; i < kLanes; ++i) result = Mix(result * kStep + Mix(state->lanes[i] + kKeys[i]));
  return result;
}

}  // namespace

uint64_t Digest(const void* data, size_t size_bytes) {
  State state = Start();
  const auto* bytes = static_cast<const unsigned char*>(data);
  const size_t stripes = size_bytes / kStripeBytes;
  Run(&state, bytes, stripes);
  return Finish(&state, bytes + stripes * kStripeBytes, size_bytes % kStripeBytes, size_bytes);
}

uint64_t CopyAndDigest(void* to, const void* from, size_t size_bytes) {
  State state = Start();
  const auto* source = static_cast<const unsigned char*>(from);
  auto* target = static_cast<unsigned char*>(to);
  const size_t whole_bytes = size_bytes - size_bytes % kStripeBytes;
  for (size_t at = 0; at < whole_bytes; at += kPieceBytes) {
    const size_t piece_bytes = std::min(kPieceBytes, whole_bytes - at);
    Run(&state, source + at, piece_bytes / kStripeBytes);
    std::memcpy(target + at, source + at, piece_bytes);
  }
  if (size_bytes > whole_bytes) {
    std::memcpy(target + whole_bytes, source + whole_bytes, size_bytes - whole_bytes);
  }
  return Finish(&state, source + whole_bytes, size_bytes - whole_bytes, size_bytes);
}

}  // namespace muond
