#include "proto/wire/crc32c.h"

#include <random>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace muond {
namespace {

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span<const char>(text.data(), text.size()));
}

TEST(Crc32cTest, GivesThePublishedCheckValue) {
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32cByTable(Bytes("123456789")), 0xe3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
}

TEST(Crc32cTest, GivesTheValuesOfRfc3720ForZerosAndOnes) {
  std::vector<std::byte> zeros(32, std::byte{0}), ones(32, std::byte{0xff});
  EXPECT_EQ(Crc32c(zeros), 0x8a9136aau);
  EXPECT_EQ(Crc32c(ones), 0x62a8ab43u);
}

TEST(Crc32cTest, TableAndInstructionAgreeAtEveryLength) {
  std::mt19937_64 random(7);
  std::vector<std::byte> bytes(200);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (size_t size = 0; size <= bytes.size(); ++size) {
    std::span<const std::byte> part(bytes.data(), size);
    ASSERT_EQ(Crc32c(part), Crc32cByTable(part)) << "length " << size;
  }
}

}  // namespace
}  // namespace muond
