#include "proto/wire/frame.h"

#include <cstring>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/wire/crc32c.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

Frame Sample() {
  Frame frame;
  frame.type = FrameType::kReady;
  frame.job = 0x1122334455667788;
  frame.session = 0x99aabbccddeeff00;
  frame.rank = 0x01020304;
  frame.incarnation = 0x05060708;
  frame.epoch = 0x0a0b0c0d;
  frame.step = 0x1011121314151617;
  frame.bucket = 0x21222324;
  frame.attempt = 0x31323334;
  frame.value = 0x4142434445464748;
  return frame;
}

void Reseal(std::array<std::byte, kFrameBytes>& bytes) {
  uint32_t crc = Crc32c(std::span<const std::byte>(bytes).first(60));
  std::memcpy(bytes.data() + 60, &crc, 4);
}

TEST(FrameTest, BytesLieWhereTheReadmeSays) {
  const auto bytes = Encode(Sample());
  const std::vector<uint8_t> head = {
      'M',  'U',  'N',  'D',  1,    3,    64,   0,    0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22,
      0x11, 0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, 0x04, 0x03, 0x02, 0x01, 0x08, 0x07,
      0x06, 0x05, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, 0x10, 0x0d, 0x0c, 0x0b, 0x0a, 0x24,
      0x23, 0x22, 0x21, 0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41, 0x34, 0x33, 0x32, 0x31};
  ASSERT_EQ(head.size(), 60u);
  for (size_t i = 0; i < head.size(); ++i)
    EXPECT_EQ(static_cast<uint8_t>(bytes[i]), head[i]) << "byte " << i;
}

TEST(FrameTest, EveryTypeComesBackAsItWasSent) {
  for (int type = 1; type <= 10; ++type) {
    Frame frame = Sample();
    frame.type = static_cast<FrameType>(type);
    frame.value = 3;
    absl::StatusOr<Frame> back = Decode(Encode(frame));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(back->type, frame.type);
    EXPECT_EQ(back->job, frame.job);
    EXPECT_EQ(back->session, frame.session);
    EXPECT_EQ(back->rank, frame.rank);
    EXPECT_EQ(back->incarnation, frame.incarnation);
    EXPECT_EQ(back->epoch, frame.epoch);
    EXPECT_EQ(back->step, frame.step);
    EXPECT_EQ(back->bucket, frame.bucket);
    EXPECT_EQ(back->attempt, frame.attempt);
    EXPECT_EQ(back->value, frame.value);
    EXPECT_NE(NameOf(back->type), "unknown");
  }
}

TEST(FrameTest, AnyLengthButSixtyFourIsRefusedWithBothCounts) {
  const auto bytes = Encode(Sample());
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  longer.push_back(std::byte{0});
  for (size_t size = 0; size <= longer.size(); ++size) {
    if (size == kFrameBytes) continue;
    absl::StatusOr<Frame> back = Decode(std::span<const std::byte>(longer.data(), size));
    ASSERT_EQ(back.status().code(), absl::StatusCode::kInvalidArgument) << size;
    EXPECT_THAT(back.status().message(),
                HasSubstr("64 bytes, this message has " + std::to_string(size)));
  }
}

TEST(FrameTest, EverySingleBitFlipIsRefused) {
  const auto good = Encode(Sample());
  for (size_t bit = 0; bit < kFrameBytes * 8; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    EXPECT_FALSE(Decode(bad).ok()) << "bit " << bit;
  }
}

TEST(FrameTest, EachRefusalSaysWhatItSaw) {
  auto bytes = Encode(Sample());
  bytes[0] = std::byte{0};
  EXPECT_THAT(Decode(bytes).status().message(), HasSubstr("0x444e5500, not the magic 0x444e554d"));

  bytes = Encode(Sample());
  bytes[4] = std::byte{9};
  Reseal(bytes);
  EXPECT_EQ(Decode(bytes).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Decode(bytes).status().message(), HasSubstr("version 9, this side speaks 1"));

  bytes = Encode(Sample());
  bytes[6] = std::byte{32};
  Reseal(bytes);
  EXPECT_THAT(Decode(bytes).status().message(), HasSubstr("says it has 32 bytes"));

  bytes = Encode(Sample());
  bytes[5] = std::byte{19};
  Reseal(bytes);
  EXPECT_THAT(Decode(bytes).status().message(), HasSubstr("type 19, known are 1 to 18"));

  bytes = Encode(Sample());
  bytes[33] ^= std::byte{1};
  EXPECT_EQ(Decode(bytes).status().code(), absl::StatusCode::kDataLoss);
}

TEST(FrameTest, UnknownReasonsAreRefused) {
  Frame frame = Sample();
  frame.type = FrameType::kVoid;
  frame.value = 7;
  EXPECT_THAT(Decode(Encode(frame)).status().message(), HasSubstr("VOID frame has reason 7"));
  frame.type = FrameType::kRefused;
  frame.value = 0;
  EXPECT_THAT(Decode(Encode(frame)).status().message(), HasSubstr("REFUSED frame has reason 0"));
}

TEST(FrameTest, RandomBytesAreNeverTakenForAFrame) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(kFrameBytes);
  for (int round = 0; round < 10000; ++round) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
    ASSERT_FALSE(Decode(bytes).ok());
  }
}

}  // namespace
}  // namespace muond
