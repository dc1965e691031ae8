// The bits of a step depend on the matrix alone: not on the list it ran in, the workspace, the device, the other devices at
// work, or how the gradient is cut. Seeds are printed; MUOND_SEED repeats one.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/optim/muon.h"
#include "tests/support/bench.h"

namespace muond::testing {
namespace {

// One matrix with everything that its step reads and writes, on one bench.
class Member {
 public:
  Member(const Bench& bench, int64_t rows, int64_t cols, uint32_t seed,
         const CoefficientTable& table, const MuonScalars& scalars, std::mt19937* cuts)
      : momentum_(bench, Gaussian(rows, cols, seed + 1, 0.1)),
        parameter_(bench, Gaussian(rows, cols, seed + 2)),
        momentum_out_(bench, rows, cols),
        parameter_out_(bench, rows, cols) {
    std::vector<int64_t> row_cuts, col_cuts;
    if (cuts != nullptr) {
      for (int64_t row = 1; row < rows; ++row) {
        if ((*cuts)() % static_cast<uint32_t>(rows) < 2) row_cuts.push_back(row);
      }
      if (cols > 1 && (*cuts)() % 2)
        col_cuts.push_back(1 + static_cast<int64_t>((*cuts)() % static_cast<uint32_t>(cols - 1)));
    }
    gradient_ = CutUp(bench, Gaussian(rows, cols, seed), DType::kFloat32, row_cuts, col_cuts);
    item_.rows = rows;
    item_.cols = cols;
    item_.gradient = gradient_.blocks;
    item_.parameter_in = {parameter_.AsBlock()};
    item_.parameter_out = parameter_out_.matrix();
    item_.momentum_in = momentum_.floats();
    item_.momentum_out = momentum_out_.floats();
    item_.scalars = &scalars;
    item_.table = &table;
  }
  const MuonItem& item() const { return item_; }
  std::pair<std::vector<uint8_t>, std::vector<uint8_t>> Bits() const {
    return {parameter_out_.Bytes(), momentum_out_.Bytes()};
  }

 private:
  Tensor momentum_, parameter_, momentum_out_, parameter_out_;
  Cut gradient_;
  MuonItem item_;
};

struct Shape {
  int64_t rows, cols;
  uint32_t seed;
};

// Enqueues the shapes' steps as one list with `workspace_bytes`, or the least that suffices when that is more.
struct ListRun {
  ListRun(const Bench& bench, const std::vector<Shape>& shapes, const CoefficientTable& table,
          const MuonScalars& scalars, uint64_t workspace_bytes, std::mt19937* cuts) {
    std::vector<MuonItem> items;
    for (const Shape& shape : shapes) {
      members.push_back(std::make_unique<Member>(bench, shape.rows, shape.cols, shape.seed, table,
                                                 scalars, cuts));
      items.push_back(members.back()->item());
    }
    const uint64_t bytes = std::max(workspace_bytes, MuonWorkspaceBytes(*bench.ops, items, 1));
    workspace = bench.device().Allocate(bytes).value();
    const absl::Status status =
        MuonStep(*bench.ops, *bench.stream, items, workspace->data(), bytes);
    EXPECT_TRUE(status.ok()) << status;
  }
  std::vector<std::unique_ptr<Member>> members;
  std::unique_ptr<Buffer> workspace;
};

TEST(SameBitsTest, AStepDependsOnItsMatrixAlone) {
  const char* fixed = std::getenv("MUOND_SEED");
  const uint32_t first = fixed != nullptr ? static_cast<uint32_t>(std::atoi(fixed)) : 1;
  const uint32_t last = fixed != nullptr ? first : 12;
  const SharedValue<MuonScalars> scalars;
  *scalars = {.lr = 0.02, .weight_decay = 0.1, .momentum = 0.95};
  const Bench alone = CpuBench(), one = CpuBench(), two = CpuBench();
  for (uint32_t seed = first; seed <= last; ++seed) {
    SCOPED_TRACE("MUOND_SEED=" + std::to_string(seed));
    std::mt19937 random(seed);
    const CoefficientTable table =
        FindCoefficientTable(seed % 2 ? "jordan" : "polar_express_101", 0).value();
    std::vector<Shape> shapes;
    for (uint32_t i = 0; i < 9; ++i) {
      const auto side = [&random] {
        return static_cast<int64_t>(1 + random() % (random() % 2 ? 20 : 220));
      };
      shapes.push_back({side(), side(), seed * 1000 + 10 * i});
    }
    std::vector<std::pair<std::vector<uint8_t>, std::vector<uint8_t>>> expected;
    for (const Shape& shape : shapes) {
      const ListRun run(alone, {shape}, table, *scalars, 0, nullptr);
      alone.Finish();
      expected.push_back(run.members[0]->Bits());
    }
    // Both devices run the whole list at once, each with its own cuts, workspace and order.
    std::vector<Shape> reversed(shapes.rbegin(), shapes.rend());
    const ListRun forward(one, shapes, table, *scalars, uint64_t{1} << (10 + random() % 16),
                          &random);
    const ListRun backward(two, reversed, table, *scalars, uint64_t{1} << (10 + random() % 16),
                           &random);
    one.Finish();
    two.Finish();
    for (size_t i = 0; i < shapes.size(); ++i) {
      EXPECT_EQ(forward.members[i]->Bits(), expected[i])
          << shapes[i].rows << " x " << shapes[i].cols;
      EXPECT_EQ(backward.members[shapes.size() - 1 - i]->Bits(), expected[i])
          << shapes[i].rows << " x " << shapes[i].cols;
    }
  }
}

}  // namespace
}  // namespace muond::testing
