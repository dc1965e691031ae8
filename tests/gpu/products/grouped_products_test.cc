// Grouped products against sums in double: every operand layout, sizes that are no multiple of anything, exact symmetry,
// and bits that do not depend on the company a product runs in.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/ops/cuda/products.h"
#include "tests/gpu/products/device_memory.h"

namespace muond {
namespace {

using test::OnDevice;

struct Shape {
  int m, n, k;
  bool a_transposed = false, b_transposed = true, symmetric = false, has_c = true, in_place = false,
       has_d2 = false;
};

std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << s.m << "x" << s.n << "x" << s.k << " A" << (s.a_transposed ? "^T" : "") << " B"
             << (s.b_transposed ? "^T" : "") << (s.symmetric ? " symmetric" : "")
             << (s.has_c ? " + C" : "") << (s.in_place ? " in place" : "")
             << (s.has_d2 ? " and D2" : "");
}

// A matrix on the device with room behind its columns, which stays 0xffff where nothing may write.
class Operand {
 public:
  Operand(int rows, int cols, DType dtype, std::mt19937& random, bool filled)
      : rows_(rows),
        cols_(cols),
        ld_((cols + 7) / 8 * 8 + 8),
        dtype_(dtype),
        host_(size_t(rows) * ld_, 0xffff),
        device_(host_.size()) {
    std::normal_distribution<float> normal;
    for (int r = 0; filled && r < rows; ++r) {
      for (int c = 0; c < cols; ++c) host_[size_t(r) * ld_ + c] = Encode(normal(random));
    }
    Upload();
  }
  void Symmetrize() {
    for (int r = 0; r < rows_; ++r) {
      for (int c = 0; c < r; ++c) host_[size_t(c) * ld_ + r] = host_[size_t(r) * ld_ + c];
    }
    Upload();
  }
  Matrix matrix() const { return {device_.data(), rows_, cols_, ld_, dtype_}; }
  double at(int r, int c) const { return Decode(host_[size_t(r) * ld_ + c]); }
  std::vector<uint16_t> Read() const { return device_.Read(); }
  double Decode(uint16_t v) const {
    return dtype_ == DType::kFloat16 ? test::HalfToFloat(v) : test::BFloatToFloat(v);
  }
  int ld() const { return ld_; }

 private:
  uint16_t Encode(float x) const {
    return dtype_ == DType::kFloat16 ? test::FloatToHalf(x) : test::FloatToBFloat(x);
  }
  void Upload() {
    cudaMemcpy(device_.data(), host_.data(), host_.size() * 2, cudaMemcpyHostToDevice);
  }

  int rows_, cols_, ld_;
  DType dtype_;
  std::vector<uint16_t> host_;
  OnDevice<uint16_t> device_;
};

struct Case {
  Case(const Shape& s, DType dtype, std::mt19937& random)
      : shape(s),
        a(s.a_transposed ? s.k : s.m, s.a_transposed ? s.m : s.k, dtype, random, true),
        b(s.b_transposed ? s.n : s.k, s.b_transposed ? s.k : s.n, dtype, random, true),
        c(s.m, s.n, dtype, random, true),
        d(s.m, s.n, dtype, random, false),
        d2(s.m, s.n, dtype, random, false) {
    if (s.symmetric) c.Symmetrize();
    product.a = a.matrix();
    product.b = s.symmetric ? a.matrix() : b.matrix();
    product.d = s.in_place ? c.matrix() : d.matrix();
    if (s.has_c) product.c = c.matrix();
    product.a_transposed = s.a_transposed;
    product.b_transposed = s.b_transposed;
    product.symmetric = s.symmetric;
    product.alpha = 1.5;
    product.beta = s.has_c ? -0.75 : 0;
    if (s.m == s.n) product.diagonal = 0.5;
    if (s.has_d2) {
      product.d2 = d2.matrix();
      product.diagonal2 = 3;
    }
  }

  // Relative error of the whole, symmetry, and that only D (up to its next multiple of 8 columns) was written.
  void Verify(double divisor) const {
    const std::vector<uint16_t> result = shape.in_place ? c.Read() : d.Read();
    const std::vector<uint16_t> second = shape.has_d2 ? d2.Read() : std::vector<uint16_t>();
    const Operand& right = shape.symmetric ? a : b;
    double error = 0, size = 0, error2 = 0;
    int asymmetric = 0, stray = 0;
    for (int r = 0; r < shape.m; ++r) {
      for (int col = 0; col < d.ld(); ++col) {
        const size_t place = size_t(r) * d.ld() + col;
        if (col >= shape.n) {
          stray += col >= (shape.n + 7) / 8 * 8 && result[place] != 0xffff;
          continue;
        }
        double sum = 0;
        for (int k = 0; k < shape.k; ++k) {
          sum += (shape.a_transposed ? a.at(k, r) : a.at(r, k)) *
                 (shape.b_transposed ? right.at(col, k) : right.at(k, col));
        }
        sum = (1.5 * sum + (shape.has_c ? -0.75 * c.at(r, col) : 0)) / divisor;
        const double exact = sum + (r == col ? product.diagonal : 0);
        error += std::pow(d.Decode(result[place]) - exact, 2);
        size += exact * exact;
        if (shape.has_d2) error2 += std::pow(d.Decode(second[place]) - sum - (r == col ? 3 : 0), 2);
        if (shape.symmetric) {
          const size_t mirrored = size_t(col) * d.ld() + r;
          asymmetric += result[place] != result[mirrored] ||
                        (shape.has_d2 && second[place] != second[mirrored]);
        }
      }
    }
    const double limit = product.d.dtype == DType::kFloat16
                             ? 4e-4
                             : 3e-3;  // half a unit in the last place, and a little
    EXPECT_LT(std::sqrt(error / size), limit) << shape;
    EXPECT_LT(std::sqrt(error2 / size), limit) << shape << ", D2";
    EXPECT_EQ(asymmetric, 0) << shape;
    EXPECT_EQ(stray, 0) << shape;
  }

  Shape shape;
  Operand a, b, c, d, d2;
  Product product;
};

class GroupedProductsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!test::HasHopper()) GTEST_SKIP() << "needs an sm_90 GPU";
    auto created = GroupedProducts::Create();
    ASSERT_TRUE(created.ok()) << created.status();
    products_ = *std::move(created);
  }
  void Run(std::vector<std::unique_ptr<Case>>& cases, double divisor) {
    const OnDevice<double> on_device(std::vector<double>{divisor});
    std::vector<Product> list;
    for (auto& c : cases) {
      c->product.alpha_divisor = on_device.data();
      c->product.divisor_power = 2;
      list.push_back(c->product);
    }
    const absl::Status status = products_->Run(nullptr, list);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  std::unique_ptr<GroupedProducts> products_;
  std::mt19937 random_{20240607};
};

std::vector<Shape> Shapes() {
  std::vector<Shape> shapes = {{256, 256, 64},
                               {256, 256, 128},
                               {256, 256, 448},
                               {384, 512, 320, false, false},
                               {320, 264, 200, true, false},
                               {256, 256, 256, false, true, true, true, true},
                               {576, 576, 128, false, true, true, true, false, true},
                               {520, 520, 328, true, false, true, false, false, true}};
  const int sizes[] = {1, 8, 24, 63, 64, 65, 130, 193, 257, 321};
  for (int i = 0; i < 10; ++i) {
    const int m = sizes[i], n = sizes[(7 * i + 3) % 10], k = sizes[(3 * i + 1) % 10];
    shapes.push_back({m, n, k, false, true, false, i % 2 == 0});
    shapes.push_back({m, n, k, false, false, false, i % 2 == 1, i % 2 == 1});
    shapes.push_back({m, n, k, true, false, false, i % 2 == 0});
    shapes.push_back({m, m, k, false, true, true, i % 2 == 1, i % 4 == 1, i % 2 == 0});
    shapes.push_back({m, m, k, true, false, true, i % 2 == 0, false, i % 2 == 1});
  }
  return shapes;
}

TEST_F(GroupedProductsTest, AllLayoutsAndSizesInOneListMatchSumsInDouble) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<std::unique_ptr<Case>> cases;
    for (const Shape& shape : Shapes())
      cases.push_back(std::make_unique<Case>(shape, dtype, random_));
    Run(cases, 2);
    for (const auto& c : cases) c->Verify(4);
  }
}

// Few and small, for tools that watch every access.
TEST_F(GroupedProductsTest, AFewSmallProductsOfEveryLayout) {
  std::vector<std::unique_ptr<Case>> cases;
  for (const Shape& shape : {Shape{70, 130, 65},
                             {64, 40, 330, false, false},
                             {130, 72, 24, true, false},
                             {130, 130, 200, false, true, true, true, true},
                             {300, 300, 64, true, false, true, true, false, true}}) {
    cases.push_back(std::make_unique<Case>(shape, DType::kFloat16, random_));
  }
  Run(cases, 2);
  for (const auto& c : cases) c->Verify(4);
}

TEST_F(GroupedProductsTest, BitsAreTheSameAloneInAListAndInAnotherOrder) {
  std::vector<std::unique_ptr<Case>> cases;
  for (const Shape& shape : Shapes()) {
    if (!shape.in_place) cases.push_back(std::make_unique<Case>(shape, DType::kFloat16, random_));
  }
  Run(cases, 1);
  std::vector<std::vector<uint16_t>> together;
  for (const auto& c : cases) together.push_back(c->d.Read());
  for (size_t i = 0; i < cases.size(); ++i) {
    cudaMemset(cases[i]->d.matrix().data, 0xff, together[i].size() * 2);
    ASSERT_TRUE(products_->Run(nullptr, {&cases[i]->product, 1}).ok());
    EXPECT_EQ(cases[i]->d.Read(), together[i]) << cases[i]->shape;
  }
  std::vector<Product> reversed;
  for (const auto& c : cases) reversed.insert(reversed.begin(), c->product);
  ASSERT_TRUE(products_->Run(nullptr, reversed).ok());
  for (size_t i = 0; i < cases.size(); ++i)
    EXPECT_EQ(cases[i]->d.Read(), together[i]) << cases[i]->shape;
}

TEST_F(GroupedProductsTest, LaterPhasesSeeEarlierResultsInOneLaunch) {
  // Powers of matrices, each phase squaring the one before in the other of two buffers: D_i = D_{i-1} D_{i-1} / n.
  constexpr int kMatrices = 40, kPhases = 9, kSide = 192;
  std::vector<Operand> first, second;
  for (int i = 0; i < kMatrices; ++i) {
    first.emplace_back(kSide, kSide, DType::kFloat16, random_, true);
    first.back().Symmetrize();
    second.emplace_back(kSide, kSide, DType::kFloat16, random_, true);
  }
  std::vector<std::vector<uint16_t>> start;
  for (const Operand& x : first) start.push_back(x.Read());
  std::vector<Product> list;
  std::vector<size_t> ends;
  for (int phase = 0; phase < kPhases; ++phase) {
    for (int i = 0; i < kMatrices; ++i) {
      const Matrix from = (phase % 2 ? second : first)[i].matrix(),
                   to = (phase % 2 ? first : second)[i].matrix();
      Product p{.d = to, .a = from, .b = from, .c = from};
      p.b_transposed = p.symmetric = true;
      p.alpha = 1.0 / kSide;
      p.beta = 0.5;
      list.push_back(p);
    }
    ends.push_back(list.size());
  }
  std::vector<std::vector<uint16_t>> phase_by_phase;
  size_t begin = 0;
  for (const size_t end : ends) {
    ASSERT_TRUE(products_->Run(nullptr, absl::MakeSpan(list).subspan(begin, end - begin)).ok());
    begin = end;
  }
  for (const Operand& x : second) phase_by_phase.push_back(x.Read());
  for (int repeat = 0; repeat < 20; ++repeat) {
    for (int i = 0; i < kMatrices; ++i) {
      cudaMemcpy(first[i].matrix().data, start[i].data(), start[i].size() * 2,
                 cudaMemcpyHostToDevice);
    }
    ASSERT_TRUE(products_->Run(nullptr, list, ends).ok());
    for (int i = 0; i < kMatrices; ++i)
      ASSERT_EQ(second[i].Read(), phase_by_phase[i]) << "matrix " << i;
  }
}

TEST_F(GroupedProductsTest, RefusesWhatItCannotMultiplyAndNamesIt) {
  Case good({64, 64, 64}, DType::kFloat16, random_);
  Product odd_ld = good.product;
  odd_ld.a.ld = 65;
  const absl::Status ld = products_->Run(nullptr, {&odd_ld, 1});
  EXPECT_EQ(ld.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ld.message()), testing::HasSubstr("ld 65"));
  Product mixed = good.product;
  mixed.b.dtype = DType::kBFloat16;
  EXPECT_EQ(products_->Check(mixed).code(), absl::StatusCode::kInvalidArgument);
  Product overlapping = good.product;
  overlapping.d = overlapping.a;
  EXPECT_EQ(products_->Check(overlapping).code(), absl::StatusCode::kInvalidArgument);
  Product misfit = good.product;
  misfit.b.cols = 56;
  EXPECT_EQ(products_->Check(misfit).code(), absl::StatusCode::kInvalidArgument);
  Product half = good.product;
  half.d.half = true;
  EXPECT_THAT(std::string(products_->Check(half).message()), testing::HasSubstr("half-stored"));
  half.symmetric = true;
  EXPECT_TRUE(products_->Check(half).ok());
  half.a.half = true;
  EXPECT_EQ(products_->Check(half).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(products_->Check(good.product).ok());
}

}  // namespace
}  // namespace muond
