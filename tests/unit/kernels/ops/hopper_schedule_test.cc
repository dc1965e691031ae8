// The order of a persistent launch: a product comes after everything it depends on, and waits for exactly that.
#include "kernels/ops/cuda/hopper_schedule.h"

#include <algorithm>
#include <set>

#include "gtest/gtest.h"
#include "kernels/ops/cuda/hopper_program.h"

namespace muond::hopper {
namespace {

// Matrices of a made-up memory: nothing here is dereferenced.
Matrix At(uintptr_t place, int64_t side) {
  return {reinterpret_cast<void*>(place), side, side, side, DType::kFloat16};
}
Product Multiply(const Matrix& a, const Matrix& b, const Matrix& d) {
  Product p{.d = d, .a = a, .b = b};
  p.symmetric = true;
  return p;
}
constexpr uintptr_t kStep = uintptr_t{1} << 28;

// `chains` matrices of `side`, each multiplied to and fro between two buffers, phase by phase.
std::vector<Product> ToAndFro(int chains, int phases, int64_t side, std::vector<size_t>* ends,
                              uintptr_t base = kStep) {
  std::vector<Product> list;
  for (int phase = 0; phase < phases; ++phase) {
    for (int i = 0; i < chains; ++i) {
      const Matrix x = At(base + 2 * i * kStep, side), y = At(base + (2 * i + 1) * kStep, side);
      list.push_back(phase % 2 ? Multiply(y, y, x) : Multiply(x, x, y));
    }
    ends->push_back(list.size());
  }
  return list;
}

TEST(HopperScheduleTest, EveryProductOnceAndNeverBeforeWhatItWaitsFor) {
  std::vector<size_t> ends;
  const std::vector<Product> list = ToAndFro(50, 7, 768, &ends);
  const Schedule schedule = MakeSchedule(list, ends, 132);
  std::set<uint32_t> seen;
  for (size_t place = 0; place < schedule.items.size(); ++place) {
    seen.insert(schedule.items[place].product);
    for (const uint32_t before : schedule.items[place].waits_for) EXPECT_LT(before, place);
  }
  EXPECT_EQ(seen.size(), list.size());
}

TEST(HopperScheduleTest, WaitsForTheWriterOfItsInputsAndTheReadersOfItsOutput) {
  // Phase 0 writes y from x; phase 1 writes x from y: it must wait for phase 0 twice over, and for nothing of the other chain.
  std::vector<size_t> ends;
  const std::vector<Product> list = ToAndFro(2, 3, 512, &ends);
  const Schedule schedule = MakeSchedule(list, ends, 132);
  for (const Schedule::Item& item : schedule.items) {
    const uint32_t phase = item.product / 2;
    ASSERT_EQ(item.waits_for.size(), phase == 0 ? 0u : 1u);
    if (phase > 0) {
      EXPECT_EQ(schedule.items[item.waits_for[0]].product, item.product - 2);
    }
  }
}

TEST(HopperScheduleTest, PartlyOverlappingWorkspacesAreSeen) {
  const Matrix x = At(kStep, 1024), y = At(2 * kStep, 1024);
  const Matrix inside_y = At(2 * kStep + 1024 * 1024, 512);  // the second half of y's bytes
  const std::vector<Product> list = {Multiply(x, x, y),
                                     Multiply(At(3 * kStep, 512), At(3 * kStep, 512), inside_y)};
  const std::vector<size_t> ends = {1, 2};
  const Schedule schedule = MakeSchedule(list, ends, 132);
  ASSERT_EQ(schedule.items[1].product, 1u);
  EXPECT_EQ(schedule.items[1].waits_for, std::vector<uint32_t>{0});
}

TEST(HopperScheduleTest, ProductsOfOnePhaseNeverWaitForEachOther) {
  const Matrix x = At(kStep, 512), y = At(2 * kStep, 512);
  const std::vector<Product> list = {Multiply(x, x, y), Multiply(x, x, y)};
  const Schedule schedule = MakeSchedule(list, {}, 132);
  for (const Schedule::Item& item : schedule.items) EXPECT_TRUE(item.waits_for.empty());
}

TEST(HopperScheduleTest, WindowsKeepEveryClusterBusyBetweenDependentProducts) {
  for (const int64_t side : {768, 1024, 1536, 2048, 4096}) {
    std::vector<size_t> ends;
    const std::vector<Product> list = ToAndFro(60, 4, side, &ends);
    const Schedule schedule = MakeSchedule(list, ends, 132);
    EXPECT_GT(schedule.windows, 1u) << side;
    std::vector<uint64_t> first_tile;
    uint64_t tiles = 0;
    for (const Schedule::Item& item : schedule.items) {
      first_tile.push_back(tiles);
      tiles += TileCount(list[item.product]);
    }
    for (size_t place = 0; place < schedule.items.size(); ++place) {
      for (const uint32_t before : schedule.items[place].waits_for) {
        const uint64_t between = first_tile[place] - first_tile[before] -
                                 TileCount(list[schedule.items[before].product]);
        EXPECT_GE(between, 66u) << side;  // 132 multiprocessors, two a cluster
      }
    }
  }
}

TEST(HopperScheduleTest, NarrowChainsAreSpreadOverTheWindows) {
  std::vector<size_t> ends, narrow_ends;
  std::vector<Product> wide = ToAndFro(60, 2, 1024, &ends);
  const std::vector<Product> narrow = ToAndFro(12, 2, 256, &narrow_ends, kStep * 1000);
  std::vector<Product> list;
  std::vector<size_t> both;
  for (int phase = 0; phase < 2; ++phase) {
    list.insert(list.end(), wide.begin() + 60 * phase, wide.begin() + 60 * (phase + 1));
    list.insert(list.end(), narrow.begin() + 12 * phase, narrow.begin() + 12 * (phase + 1));
    both.push_back(list.size());
  }
  const Schedule schedule = MakeSchedule(list, both, 132);
  size_t first = list.size(), last = 0;
  for (size_t place = 0; place < schedule.items.size(); ++place) {
    if (TileCount(list[schedule.items[place].product]) != 1) continue;
    first = std::min(first, place);
    last = std::max(last, place);
  }
  EXPECT_LT(first, list.size() / 3);
  EXPECT_GT(last, 2 * list.size() / 3);
}

TEST(HopperScheduleTest, TilesOfAProductAreWalkedOnceEach) {
  for (const bool symmetric : {false, true}) {
    for (const int side : {1, 2, 7, 8, 9, 17, 30}) {
      const int columns = symmetric ? side : side + 3;
      const uint32_t count =
          static_cast<uint32_t>(symmetric ? side * (side + 1) / 2 : side * columns);
      std::set<std::pair<int, int>> seen;
      for (uint32_t i = 0; i < count; ++i) {
        const TilePlace place = PlaceOf(i, side, columns, symmetric);
        EXPECT_GE(place.row, symmetric ? place.column : 0);
        EXPECT_LT(place.row, side);
        EXPECT_LT(place.column, columns);
        seen.insert({place.row, place.column});
      }
      EXPECT_EQ(seen.size(), count) << side;
    }
  }
}

}  // namespace
}  // namespace muond::hopper
