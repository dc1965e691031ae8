// Shards against a picture of the tensor, element by element: where RectanglesOf says an element lies, there it lies; and
// CheckCover accepts exactly the sets of shards that paint every element once.
#include <random>

#include "gtest/gtest.h"
#include "proto/types/shards.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

struct Index {
  std::vector<int64_t> at;
  bool Next(const std::vector<int64_t>& extent) {
    for (size_t d = extent.size(); d-- > 0;) {
      if (++at[d] < extent[d]) return true;
      at[d] = 0;
    }
    return false;
  }
};

int64_t Flat(const std::vector<int64_t>& at, const std::vector<int64_t>& shape) {
  int64_t flat = 0;
  for (size_t d = 0; d < shape.size(); ++d) flat = flat * shape[d] + at[d];
  return flat;
}

class ShardsPropertyTest : public ::testing::Test {
 protected:
  ShardsPropertyTest() : seed_(std::random_device{}()), random_(seed_) {
    ::testing::Test::RecordProperty("seed", std::to_string(seed_));
  }
  int64_t Upto(int64_t most) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(most + 1));
  }
  TensorSpec RandomTensor() {
    std::vector<int64_t> shape(static_cast<size_t>(1 + Upto(3)));
    for (int64_t& side : shape) side = 1 + Upto(4);
    TensorSpec tensor = testing::Tensor("t", shape);
    tensor.row_dims = static_cast<int32_t>(Upto(static_cast<int64_t>(shape.size())));
    return tensor;
  }
  ShardSpec RandomShard(const TensorSpec& tensor) {
    ShardSpec shard;
    for (int64_t side : tensor.shape) {
      shard.offset.push_back(Upto(side));
      shard.extent.push_back(Upto(side - shard.offset.back()));
    }
    return shard;
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
};

TEST_F(ShardsPropertyTest, RectanglesNameEveryElementOfAShardWhereItLies) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed_);
  for (int round = 0; round < 3000; ++round) {
    const TensorSpec tensor = RandomTensor();
    const ShardSpec shard = RandomShard(tensor);
    const int64_t cols = ViewOf(tensor).cols;
    std::vector<int64_t>
        expected;  // of each element of the shard's memory: its element of the tensor
    if (ElementsOf(shard) > 0) {
      Index index{std::vector<int64_t>(tensor.shape.size(), 0)};
      do {
        std::vector<int64_t> at = index.at;
        for (size_t d = 0; d < at.size(); ++d) at[d] += shard.offset[d];
        expected.push_back(Flat(at, tensor.shape));
      } while (index.Next(shard.extent));
    }
    std::vector<int64_t> got(expected.size(), -1);
    const absl::StatusOr<std::vector<Rectangle>> rectangles = RectanglesOf(tensor, shard);
    ASSERT_TRUE(rectangles.ok()) << rectangles.status();
    for (const Rectangle& part : *rectangles) {
      for (int64_t r = 0; r < part.rows; ++r) {
        for (int64_t c = 0; c < part.cols; ++c) {
          const int64_t place = part.offset + r * part.ld + c;
          ASSERT_GE(place, 0);
          ASSERT_LT(place, static_cast<int64_t>(got.size()));
          ASSERT_EQ(got[static_cast<size_t>(place)], -1) << "two rectangles name one place";
          got[static_cast<size_t>(place)] = (part.row + r) * cols + part.col + c;
        }
      }
    }
    ASSERT_EQ(got, expected) << ShapeText(tensor.shape) << " row_dims " << tensor.row_dims
                             << " offset " << ShapeText(shard.offset) << " extent "
                             << ShapeText(shard.extent);
  }
}

TEST_F(ShardsPropertyTest, TheCoverIsExactExactlyWhenEveryElementIsPaintedOnce) {
  SCOPED_TRACE(::testing::Message() << "seed " << seed_);
  int covers = 0;
  for (int round = 0; round < 6000; ++round) {
    Manifest manifest = testing::EmptyManifest(3);
    manifest.tensors = {RandomTensor()};
    const TensorSpec& tensor = manifest.tensors[0];
    // Cut the whole at random into pieces; then, half of the time, spoil one.
    std::vector<ShardSpec> pieces = {testing::Whole(manifest, 0)};
    for (int64_t cuts = Upto(6); cuts > 0; --cuts) {
      ShardSpec& piece = pieces[random_() % pieces.size()];
      const size_t d = random_() % tensor.shape.size();
      const int64_t first = Upto(piece.extent[d]);
      ShardSpec rest = piece;
      piece.extent[d] = first;
      rest.offset[d] += first;
      rest.extent[d] -= first;
      pieces.push_back(rest);
    }
    if (round % 2 == 1) {
      pieces[random_() % pieces.size()] = RandomShard(tensor);
    }
    std::vector<int> painted(static_cast<size_t>(ElementsOf(tensor)), 0);
    std::vector<RankManifest> ranks(3);
    for (int32_t r = 0; r < 3; ++r) ranks[static_cast<size_t>(r)].rank = r;
    for (const ShardSpec& piece : pieces) {
      ranks[random_() % 3].shards.push_back(piece);
      if (ElementsOf(piece) == 0) continue;
      Index index{std::vector<int64_t>(tensor.shape.size(), 0)};
      do {
        std::vector<int64_t> at = index.at;
        for (size_t d = 0; d < at.size(); ++d) at[d] += piece.offset[d];
        ++painted[static_cast<size_t>(Flat(at, tensor.shape))];
      } while (index.Next(piece.extent));
    }
    const bool once =
        std::all_of(painted.begin(), painted.end(), [](int times) { return times == 1; });
    covers += once ? 1 : 0;
    ASSERT_EQ(CheckRanks(manifest, ranks).ok(), once) << CheckRanks(manifest, ranks);
  }
  EXPECT_GT(covers, 2000);
  EXPECT_LT(covers, 5900);
}

}  // namespace
}  // namespace muond
