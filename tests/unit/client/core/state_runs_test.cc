// Stretches of a shard's state within its tensor's, against a walk over every element.
#include <gtest/gtest.h>

#include <vector>

#include "client/core/client.h"

namespace muond {
namespace {

TensorSpec Tensor(std::vector<int64_t> shape) {
  TensorSpec tensor;
  tensor.name = "w";
  tensor.shape = std::move(shape);
  return tensor;
}

ShardSpec Shard(std::vector<int64_t> offset, std::vector<int64_t> extent) {
  ShardSpec shard;
  shard.offset = std::move(offset);
  shard.extent = std::move(extent);
  return shard;
}

TEST(StateRunsTest, WholeRowsAreOneRun) {
  const auto runs = StateRunsOf(Tensor({6, 5}), Shard({2, 0}, {3, 5}));
  EXPECT_EQ(runs, (std::vector<StateRun>{{40, 0, 60}}));
}

TEST(StateRunsTest, ColumnsAreARunEachRow) {
  const auto runs = StateRunsOf(Tensor({3, 5}), Shard({0, 3}, {3, 2}));
  EXPECT_EQ(runs, (std::vector<StateRun>{{12, 0, 8}, {32, 8, 8}, {52, 16, 8}}));
}

TEST(StateRunsTest, ScalarsAndEmptyShards) {
  EXPECT_EQ(StateRunsOf(Tensor({}), Shard({}, {})), (std::vector<StateRun>{{0, 0, 4}}));
  EXPECT_TRUE(StateRunsOf(Tensor({3, 5}), Shard({3, 0}, {0, 5})).empty());
}

TEST(StateRunsTest, EveryElementOfEveryBlockLiesWhereTheRunsSay) {
  const TensorSpec tensor = Tensor({3, 4, 2});
  for (int64_t a = 0; a < 3; ++a) {
    for (int64_t b = 0; b < 4; ++b) {
      for (int64_t c = 0; c < 2; ++c) {
        const ShardSpec shard = Shard({a, b, c}, {3 - a, 4 - b, 2 - c});
        std::vector<uint64_t> expected, found;
        for (int64_t i = a; i < 3; ++i) {
          for (int64_t j = b; j < 4; ++j) {
            for (int64_t k = c; k < 2; ++k) {
              expected.push_back(static_cast<uint64_t>((i * 4 + j) * 2 + k));
            }
          }
        }
        for (const StateRun& run : StateRunsOf(tensor, shard)) {
          ASSERT_EQ(run.shard_offset_bytes, found.size() * 4);
          for (uint64_t at = 0; at < run.size_bytes; at += 4) {
            found.push_back((run.tensor_offset_bytes + at) / 4);
          }
        }
        EXPECT_EQ(found, expected) << a << ' ' << b << ' ' << c;
      }
    }
  }
}

}  // namespace
}  // namespace muond
