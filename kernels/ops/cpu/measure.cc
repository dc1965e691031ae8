#include "kernels/ops/cpu/measure.h"

#include <algorithm>

#include "kernels/ops/cpu/block_reader.h"
#include "kernels/ops/cpu/passes.h"

namespace muond::cpu {
namespace {

void AddSquares(const float* values, int64_t count, BinnedSum& sum) {
  SquareTerms terms;
  ExactSquares(values, count, terms);
  sum.AddUnits(terms.units, terms.exponents, terms.count);
}

}  // namespace

void Measure(const MeasureTask& task) {
  Measurement result;
  BlockReader reader(task.blocks, task.rows, task.cols, BlockReader::Replicas::kSum);
  float scratch[kRun];
  const int64_t size = task.rows * task.cols;
  for (int64_t begin = 0; begin < size; begin += kRun) {
    const int64_t count = std::min(kRun, size - begin);
    const float* values = reader.Read(begin, count, scratch);
    result.non_finite += static_cast<uint64_t>(CountNonFinite(values, count));
    if (task.want_norm) AddSquares(values, count, result.sum_of_squares);
  }
  result.sum_of_squares.Normalize();
  *task.result = result;
}

}  // namespace muond::cpu
