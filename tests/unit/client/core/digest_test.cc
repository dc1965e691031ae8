#include "client/core/digest.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

namespace muond {
namespace {

std::vector<unsigned char> Random(size_t size_bytes, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<unsigned char> bytes(size_bytes);
  for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
  return bytes;
}

// The header's text, word by word, with no vector code: what every build must give.
uint64_t Spelled(const std::vector<unsigned char>& bytes) {
  const uint64_t keys[8] = {0x6a09e667f3bcc909, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b,
                            0xa54ff53a5f1d36f1, 0x510e527fade682d1, 0x9b05688c2b3e6c1f,
                            0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
  const uint64_t step = 0x9e3779b97f4a7c15;
  uint64_t acc[8];
  std::memcpy(acc, keys, sizeof(acc));
  std::vector<unsigned char> padded = bytes;
  while (padded.size() % 64 != 0) padded.push_back(0);
  for (uint64_t t = 0; t < padded.size() / 64; ++t) {
    uint64_t d[8];
    std::memcpy(d, padded.data() + 64 * t, 64);
    uint64_t next[8];
    for (int i = 0; i < 8; ++i) {
      const uint64_t x = d[i] ^ (keys[i] + t * step);
      next[i] = acc[i] + (x & 0xffffffff) * (x >> 32) + (d[i ^ 1] << 23 | d[i ^ 1] >> 41);
    }
    for (int i = 0; i < 8; ++i) {
      acc[i] = next[i];
      if ((t + 1) % 16 == 0) acc[i] = (acc[i] ^ acc[i] >> 29 ^ keys[i]) * 0x9e3779b1u;
    }
  }
  const auto mix = [](uint64_t x) {
    x = (x ^ x >> 31) * 0xd6e8feb86659fd93;
    x = (x ^ x >> 29) * 0xa0761d6478bd642f;
    return x ^ x >> 32;
  };
  uint64_t result = mix(bytes.size() + step);
  for (int i = 0; i < 8; ++i) result = mix(result * step + mix(acc[i] + keys[i]));
  return result;
}

TEST(DigestTest, IsWhatTheHeaderSaysForEveryLength) {
  for (size_t size_bytes : {0, 1, 4, 63, 64, 65, 1000, 1023, 1024, 1025, 16384, 16385, 100'003}) {
    const std::vector<unsigned char> bytes = Random(size_bytes, 7);
    EXPECT_EQ(Digest(bytes.data(), bytes.size()), Spelled(bytes)) << size_bytes << " bytes";
  }
}

TEST(DigestTest, CopyingDigestsTheSameAndCopiesEverything) {
  for (size_t size_bytes : {1, 64, 4097, 16384, 3 * 16384 + 17}) {
    const std::vector<unsigned char> bytes = Random(size_bytes, 11);
    std::vector<unsigned char> copy(size_bytes);
    EXPECT_EQ(CopyAndDigest(copy.data(), bytes.data(), size_bytes),
              Digest(bytes.data(), size_bytes));
    EXPECT_EQ(copy, bytes);
  }
}

TEST(DigestTest, EverySingleBitCounts) {
  std::vector<unsigned char> bytes = Random(1100, 3);
  std::set<uint64_t> seen = {Digest(bytes.data(), bytes.size())};
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
    EXPECT_TRUE(seen.insert(Digest(bytes.data(), bytes.size())).second) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<unsigned char>(1 << bit % 8);
  }
}

TEST(DigestTest, PositionAndLengthCount) {
  std::vector<float> values(512);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7);
  const uint64_t before = Digest(values.data(), values.size() * sizeof(float));
  for (size_t distance : {1, 2, 16, 32, 256}) {  // words, lanes, stripes
    std::swap(values[3], values[3 + distance]);
    if (values[3] != values[3 + distance]) {
      EXPECT_NE(Digest(values.data(), values.size() * sizeof(float)), before) << distance;
    }
    std::swap(values[3], values[3 + distance]);
  }
  const std::vector<unsigned char> zeros(4096, 0);
  std::set<uint64_t> seen;
  for (size_t size_bytes = 0; size_bytes <= zeros.size(); ++size_bytes) {
    EXPECT_TRUE(seen.insert(Digest(zeros.data(), size_bytes)).second) << size_bytes;
  }
}

}  // namespace
}  // namespace muond
