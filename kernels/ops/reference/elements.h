// One element of a tensor that lies in blocks: as slow and as plain as it can be.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops/ops.h"

namespace muond::reference {

double Load(const void* data, int64_t index, DType dtype);
void Store(void* data, int64_t index, DType dtype,
           double value);  // rounded once to fp32, then to dtype

inline double At(const Matrix& matrix, int64_t row, int64_t col) {
  return Load(matrix.data, row * matrix.ld + col, matrix.dtype);
}
inline void Put(const Matrix& matrix, int64_t row, int64_t col, double value) {
  Store(matrix.data, row * matrix.ld + col, matrix.dtype, value);
}

// The sum over replicas of element (row, col), in fp32 along the balanced binary tree over the replica index that
// ops.h defines; replicas without a block there are left out.
float SumOfReplicas(const std::vector<Block>& blocks, int64_t row, int64_t col);

// Element (row, col) of a parameter: from the first block that covers it, 0 where none does.
float ParameterAt(const std::vector<Block>& blocks, int64_t row, int64_t col);

}  // namespace muond::reference
