#include "tests/support/bench.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/ops/convert.h"

namespace muond::testing {
namespace {

void Encode(double value, DType dtype, uint8_t* out) {
  const auto rounded = static_cast<float>(value);
  if (dtype == DType::kFloat32) {
    std::memcpy(out, &rounded, sizeof(rounded));
    return;
  }
  const uint16_t bits =
      dtype == DType::kBFloat16 ? FloatToBFloat16(rounded) : FloatToFloat16(rounded);
  std::memcpy(out, &bits, sizeof(bits));
}

Bench MakeBench(std::unique_ptr<Ops> ops) {
  Bench bench;
  bench.backend = CreateCpuBackend({}).value();
  bench.stream = bench.backend->devices()[0]->CreateStream().value();
  bench.ops = std::move(ops);
  return bench;
}

}  // namespace

Bench ReferenceBench() { return MakeBench(CreateReferenceOps()); }
Bench CpuBench() { return MakeBench(CreateCpuOps()); }

absl::StatusOr<Bench> CudaBench() {
  auto backend = CreateCudaBackend();
  if (!backend.ok()) return backend.status();
  Bench bench;
  bench.backend = *std::move(backend);
  bench.stream = bench.device().CreateStream().value();
  auto ops = CreateCudaOps(bench.device());
  if (!ops.ok()) return ops.status();
  bench.ops = *std::move(ops);
  return bench;
}

Tensor::Tensor(const Bench& bench, int64_t rows, int64_t cols, DType dtype, int64_t padding)
    : bench_(&bench),
      matrix_{nullptr, rows, cols, cols + padding, dtype},
      memory_(bench.device(), static_cast<size_t>(rows * (cols + padding)) * SizeOf(dtype)) {
  matrix_.data = memory_.data();
  Put(nullptr);
}

Tensor::Tensor(const Bench& bench, const Dense& values, DType dtype, int64_t padding)
    : Tensor(bench, values.rows, values.cols, dtype, padding) {
  Put(&values);
}

void Tensor::Put(const Dense* values) {
  std::vector<uint8_t> bytes(memory_.size());
  const size_t size = SizeOf(matrix_.dtype);
  for (int64_t i = 0; i < matrix_.rows * matrix_.ld; ++i) {
    const int64_t row = i / matrix_.ld, col = i % matrix_.ld;
    const bool set = values != nullptr && col < matrix_.cols;
    Encode(set ? (*values)(row, col) : std::nan(""), matrix_.dtype,
           bytes.data() + static_cast<size_t>(i) * size);
  }
  memory_.Upload(*bench_->stream, bytes);
}

Block Tensor::AsBlock(int64_t row, int64_t col, int replica) const {
  return {matrix_.data, row, col, matrix_.rows, matrix_.cols, matrix_.ld, matrix_.dtype, replica};
}

std::vector<uint8_t> Tensor::Bytes() const { return memory_.Download(*bench_->stream); }

Dense Tensor::Read() const {
  std::vector<uint8_t> bytes = Bytes();
  Matrix host = matrix_;
  host.data = bytes.data();
  return FromMatrix(host);
}

bool Tensor::PaddingIsUntouched() const {
  std::vector<uint8_t> bytes = Bytes();
  Matrix whole = matrix_;
  whole.data = bytes.data();
  whole.cols = matrix_.ld;
  const Dense values = FromMatrix(whole);
  for (int64_t row = 0; row < whole.rows; ++row) {
    for (int64_t col = matrix_.cols; col < whole.cols; ++col) {
      if (!std::isnan(values(row, col))) return false;
    }
  }
  return true;
}

Dense Rounded(const Dense& values, DType dtype) {
  Dense result = values;
  for (double& value : result.values) {
    const auto single = static_cast<float>(value);
    if (dtype == DType::kFloat32) value = single;
    if (dtype == DType::kBFloat16) value = BFloat16ToFloat(FloatToBFloat16(single));
    if (dtype == DType::kFloat16) value = Float16ToFloat(FloatToFloat16(single));
  }
  return result;
}

Dense Gaussian(int64_t rows, int64_t cols, uint32_t seed, double scale) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, scale);
  Dense result(rows, cols);
  for (double& value : result.values) value = static_cast<float>(normal(random));
  return result;
}

Dense Slice(const Dense& values, int64_t row, int64_t col, int64_t rows, int64_t cols) {
  Dense result(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) result(r, c) = values(row + r, col + c);
  }
  return result;
}

Cut CutUp(const Bench& bench, const Dense& values, DType dtype, std::vector<int64_t> row_cuts,
          std::vector<int64_t> col_cuts, int replica, uint32_t seed) {
  row_cuts.insert(row_cuts.begin(), 0);
  row_cuts.push_back(values.rows);
  col_cuts.insert(col_cuts.begin(), 0);
  col_cuts.push_back(values.cols);
  Cut cut;
  for (size_t r = 0; r + 1 < row_cuts.size(); ++r) {
    for (size_t c = 0; c + 1 < col_cuts.size(); ++c) {
      const int64_t row = row_cuts[r], col = col_cuts[c];
      const Dense piece = Slice(values, row, col, row_cuts[r + 1] - row, col_cuts[c + 1] - col);
      cut.pieces.push_back(
          std::make_unique<Tensor>(bench, piece, dtype, static_cast<int64_t>((r + 2 * c) % 3)));
      cut.blocks.push_back(cut.pieces.back()->AsBlock(row, col, replica));
    }
  }
  std::shuffle(cut.blocks.begin(), cut.blocks.end(), std::mt19937(seed));
  return cut;
}

double Epsilon(DType dtype) {
  if (dtype == DType::kFloat32) return 0x1p-23;
  return dtype == DType::kBFloat16 ? 0x1p-7 : 0x1p-10;
}

std::string Name(DType dtype) {
  if (dtype == DType::kFloat32) return "fp32";
  return dtype == DType::kBFloat16 ? "bf16" : "fp16";
}

}  // namespace muond::testing
