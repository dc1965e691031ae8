// The matrix zoo: spectra that optimizers meet and that break orthogonalisation, with the exact answer beside each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/optim/newton_schulz.h"
#include "tests/support/dense.h"

namespace muond::testing {

// X = U diag(sigma) V^T, values rounded to fp32.
struct ZooMatrix {
  std::string name;
  Dense x;
  Dense u, v;  // [rows, s], [cols, s], orthonormal columns; empty for "gaussian", "zero"
  std::vector<double> spectrum;  // s values
};

const std::vector<std::string>& ZooNames();
ZooMatrix MakeZooMatrix(const std::string& name, int64_t rows, int64_t cols, uint32_t seed);

// U p(sigma / ||sigma||) V^T with p the composed quintics of `table`: no matrix is multiplied by itself.
// REQUIRES: u and v are not empty.
Dense SpectralOracle(const ZooMatrix& matrix, const CoefficientTable& table);

// torch.optim.Muon's Newton-Schulz: every product accumulated in high precision and rounded to bf16, norm in bf16.
Dense TorchBFloat16NewtonSchulz(const Dense& x, const CoefficientTable& table, double eps);

}  // namespace muond::testing
