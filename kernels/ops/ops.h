// Ops: the verbs of one device. Everything that touches numbers goes through here, grouped: each call
// takes a list, so that a GPU can run many matrices in one launch. optim/ is written once over them.
//
// Matrices are row-major. Unless a field says "host", pointers are memory that the device can reach.
// Lists and the structs they name are read when the call is made (copied), except pointers documented
// as "read when it runs", which must live until the stream has passed the call.
// The bits of a result depend on shape, dtype, architecture and build only, never on the list it ran in.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/binned_sum.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/dtype.h"

namespace muond {

struct Matrix {
  void* data = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t ld = 0;  // elements between rows
  DType dtype = DType::kFloat32;
  // A symmetric matrix that passes between the products of one MultiplyPhases call and is read by nothing else: an
  // implementation may store its lower half alone, and reads what it stored. D, D2 and operands say so alike.
  bool half = false;
};

// A rectangle of a rows x cols matrix that lives somewhere of its own (a rank's shard).
struct Block {
  void* data = nullptr;      // its element (0, 0)
  int64_t row = 0, col = 0;  // where that element is in the matrix
  int64_t rows = 0, cols = 0;
  int64_t ld = 0;
  DType dtype = DType::kFloat32;
  int32_t replica =
      0;  // gradients: blocks of different replicas are summed in fp32 along a balanced binary tree over this
  // index (node [i 2^k, (i+1) 2^k) = left + right, an absent child left out). Elsewhere ignored
  // Gradients only. When set, `data` is an offset in bytes from *base, an address that the device can reach, read when the
  // work runs: a captured graph then serves gradients that move. *base and the offset are multiples of 16.
  const void* const* base = nullptr;
};
inline const void* AddressOf(const Block& block) {
  if (block.base == nullptr) return block.data;
  return static_cast<const char*>(*block.base) + reinterpret_cast<intptr_t>(block.data);
}

// Scalars of one matrix's step, read when the work runs.
struct MuonScalars {
  double lr = 0, weight_decay = 0, momentum = 0, eps = 1e-7;
  double update_scale = 1;  // the rectangle's factor of NUMERICS: sqrt(max(1, m/n)) and the like
  double gradient_scale =
      1;  // clip factor, 1/W of unreduced replicas, 1/loss scale: multiplied together
  bool nesterov = true;
};
struct AdamWScalars {
  double lr = 0, weight_decay = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double gradient_scale = 1;
};

// What a pass over gradients finds out. Host-visible memory (kept, or pinned), written by the device.
struct Measurement {
  BinnedSum sum_of_squares;  // order-independent: equal bits for every layout of the same elements
  uint64_t non_finite = 0;   // how many NaN or Inf elements
};

struct MeasureTask {
  std::vector<Block>
      blocks;  // one replica, or all replicas of unreduced gradients (measured after summing)
  int64_t rows = 0, cols = 0;
  bool want_norm = false;  // without it only non_finite is found
  Measurement* result = nullptr;
};

// g = gradient_scale * sum of replicas; m_out = m_in + (1-mu)(g - m_in); u = nesterov ? g + mu (m_out - g) : m_out.
// Writes u 2^k to `direction` (cast to its dtype; k = 0 unless the dtype or the squares of u need it) and
// max(||u||_F, scalars->eps) 2^k to `direction_norm`: what Newton-Schulz divides by. It is never zero.
struct DirectionTask {
  int64_t rows = 0, cols = 0;
  std::vector<Block> gradient;
  const float* momentum_in = nullptr;  // [rows, cols] dense; null: no momentum, u = g, and
  float* momentum_out = nullptr;       // momentum_out is not used. May equal momentum_in
  Matrix direction;
  double* direction_norm = nullptr;      // device-reachable; see above
  const MuonScalars* scalars = nullptr;  // read when it runs
};

// D = alpha op(A) op(B) + beta C + diagonal I, fp32 (or wider) accumulation. `symmetric` promises that the exact
// result is symmetric: only r >= c is computed, then mirrored, so D == D^T bit for bit.
// d2, when set, takes the same sum with diagonal2 in diagonal's place, also rounded once: one product, two uses
// (Z and the first Q = Z + a I of the Gram form).
struct Product {
  Matrix d, a, b;
  Matrix c = {};   // data may be null (beta ignored); may be d; nothing else overlaps d or d2
  Matrix d2 = {};  // data may be null
  double diagonal = 0, diagonal2 = 0;  // nonzero for square D only
  bool a_transposed = false, b_transposed = false;
  bool symmetric = false;
  double alpha = 1, beta = 0;
  // When set: alpha and beta are divided by max(*alpha_divisor, divisor_floor)^divisor_power when it runs.
  const double* alpha_divisor = nullptr;
  double divisor_floor = 0;
  int divisor_power = 1;
};

// p_out = (1 - lr*wd) p_in - lr*update_scale * U.
struct ApplyTask {
  int64_t rows = 0, cols = 0;
  std::vector<Block> parameter_in;
  Matrix parameter_out;  // the staged place
  Matrix update;
  const MuonScalars* scalars = nullptr;  // read when it runs
};

// One run of rows of one AdamW tensor. State is dense [rows, cols]; `step` is this tensor's own count.
struct AdamWTask {
  int64_t rows = 0, cols = 0;
  bool present = true;  // false: no gradient this step; state and parameter are copied
  std::vector<Block> gradient;
  std::vector<Block> parameter_in;
  Matrix parameter_out;
  const float *exp_avg_in = nullptr, *exp_avg_sq_in = nullptr;
  float *exp_avg_out = nullptr, *exp_avg_sq_out = nullptr;
  const double* step_in = nullptr;        // steps done so far
  double* step_out = nullptr;             // written: *step_in + (present ? 1 : 0)
  const AdamWScalars* scalars = nullptr;  // read when it runs
};

// Copies the overlap of `source` (dense rows x cols) to every block, converting the dtype.
struct ScatterTask {
  Matrix source;
  std::vector<Block> destinations;
};

// *word = value after a system fence, unless *mark is set by then (a poisoned wait before it).
struct FlipTask {
  Cell* word = nullptr;
  uint64_t value = 0;
  const Cell* mark = nullptr;
};

class Ops {
 public:
  virtual ~Ops() = default;
  // The dtype in which Newton-Schulz iterates on this device: fp32 on a CPU, fp16 on CUDA.
  virtual DType iterate_dtype() const = 0;
  // Workspace beyond which running more matrices at once buys nothing. A CPU wants its caches, a GPU wants tiles.
  virtual uint64_t preferred_round_bytes() const { return UINT64_MAX; }
  virtual void Measure(Stream& stream, absl::Span<const MeasureTask> tasks) = 0;
  virtual void Direction(Stream& stream, absl::Span<const DirectionTask> tasks) = 0;
  // The tasks of one call are independent of each other; calls are ordered.
  virtual void Multiply(Stream& stream, absl::Span<const Product> products) = 0;
  // Dependent products: phase_ends[i] is the index behind the last product of phase i, phases are ordered, the products of
  // one phase are independent. The same results as one Multiply a phase; a GPU runs all of them in one launch.
  virtual void MultiplyPhases(Stream& stream, absl::Span<const Product> products,
                              absl::Span<const size_t> phase_ends) {
    size_t begin = 0;
    for (const size_t end : phase_ends) {
      Multiply(stream, products.subspan(begin, end - begin));
      begin = end;
    }
  }
  virtual void Apply(Stream& stream, absl::Span<const ApplyTask> tasks) = 0;
  virtual void AdamW(Stream& stream, absl::Span<const AdamWTask> tasks) = 0;
  virtual void Scatter(Stream& stream, absl::Span<const ScatterTask> tasks) = 0;
  virtual void Flip(Stream& stream, const FlipTask& task) = 0;
};

std::unique_ptr<Ops> CreateReferenceOps();  // fp64 inside, slow, obvious: the oracle
std::unique_ptr<Ops> CreateCpuOps();
absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(Device& device);

}  // namespace muond
