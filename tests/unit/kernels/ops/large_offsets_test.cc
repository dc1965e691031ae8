// Offsets beyond 2^31 and 2^32 elements, in sparse memory: rows lie 2^30 elements and more apart.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <vector>

#include "kernels/ops/ops.h"
#include "tests/support/bench.h"

namespace muond::testing {
namespace {

constexpr int64_t kLd = (int64_t{1} << 30) + 64;

// Virtual memory that takes pages only where it is touched.
class SparseMatrix {
 public:
  SparseMatrix(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), bytes_(static_cast<size_t>(rows * kLd) * 4) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~SparseMatrix() {
    if (is_mapped()) munmap(data_, bytes_);
  }
  bool is_mapped() const { return data_ != MAP_FAILED; }
  Matrix matrix() const { return {data_, rows_, cols_, kLd}; }
  Block block() const { return {data_, 0, 0, rows_, cols_, kLd}; }
  void Fill(const Dense& values) {
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t col = 0; col < cols_; ++col)
        static_cast<float*>(data_)[row * kLd + col] = static_cast<float>(values(row, col));
    }
  }

 private:
  int64_t rows_, cols_;
  size_t bytes_;
  void* data_;
};

class LargeOffsetsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!sparse_.is_mapped()) GTEST_SKIP() << "no 24 GiB of address space";
    sparse_.Fill(values_);
  }
  const Dense values_ = Gaussian(6, 40, 1);
  SparseMatrix sparse_{6, 40};
  const Bench bench_ = CpuBench();
};

TEST_F(LargeOffsetsTest, GradientsAreReadAndUpdatesWritten) {
  const MuonScalars scalars{.momentum = 0, .nesterov = false};
  const Tensor momentum(bench_, Dense(6, 40)), direction(bench_, 6, 40);
  double norm = 0;
  const DirectionTask task{
      6,     40,      {sparse_.block()}, momentum.floats(), momentum.floats(), direction.matrix(),
      &norm, &scalars};
  bench_.ops->Direction(*bench_.stream, {&task, 1});
  bench_.Finish();
  EXPECT_EQ(MaxDistance(direction.Read(), values_), 0);

  SparseMatrix out(6, 40);
  ASSERT_TRUE(out.is_mapped());
  const MuonScalars step{.lr = 1, .weight_decay = 0, .update_scale = 1};
  const Tensor parameter(bench_, Gaussian(6, 40, 2));
  const ApplyTask apply{6, 40, {parameter.AsBlock()}, out.matrix(), sparse_.matrix(), &step};
  bench_.ops->Apply(*bench_.stream, {&apply, 1});
  bench_.Finish();
  Dense expected = parameter.Read();
  for (size_t i = 0; i < expected.values.size(); ++i)
    expected.values[i] = static_cast<float>(expected.values[i] - values_.values[i]);
  EXPECT_EQ(MaxDistance(FromMatrix(out.matrix()), expected), 0);
}

TEST_F(LargeOffsetsTest, ProductsReachFarRows) {
  const Tensor d(bench_, 6, 6);
  Product product{.d = d.matrix(), .a = sparse_.matrix(), .b = sparse_.matrix()};
  product.b_transposed = true;
  product.symmetric = true;
  bench_.ops->Multiply(*bench_.stream, {&product, 1});
  bench_.Finish();
  EXPECT_LT(MaxDistance(d.Read(), Times(values_, Transposed(values_))), 1e-4);
}

TEST_F(LargeOffsetsTest, ScatterReachesFarRows) {
  SparseMatrix to(6, 40);
  ASSERT_TRUE(to.is_mapped());
  const ScatterTask task{sparse_.matrix(), {to.block()}};
  bench_.ops->Scatter(*bench_.stream, {&task, 1});
  bench_.Finish();
  EXPECT_EQ(MaxDistance(FromMatrix(to.matrix()), values_), 0);
}

}  // namespace
}  // namespace muond::testing
