// The oracle: every verb in double, one element at a time, rounded once where it is stored.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/ops/ops.h"
#include "kernels/ops/reference/elements.h"

namespace muond {
namespace {

using reference::At;
using reference::ParameterAt;
using reference::Put;
using reference::SumOfReplicas;

void MeasureOne(const MeasureTask& task) {
  Measurement result;
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t col = 0; col < task.cols; ++col) {
      const float value = SumOfReplicas(task.blocks, row, col);
      if (!std::isfinite(value)) {
        ++result.non_finite;
      } else if (task.want_norm) {
        result.sum_of_squares.AddSquare(value);
      }
    }
  }
  result.sum_of_squares.Normalize();
  *task.result = result;
}

// The power of two that brings `norm` into [1, 2) when its square, or a square of an element, could leave fp32.
double SafeScale(double norm, double eps) {
  if (!std::isfinite(norm) || eps >= 1 || (norm >= 0x1p-20 && norm < 0x1p20)) return 1;
  return std::ldexp(1.0, -std::ilogb(norm));
}

void DirectionOne(const DirectionTask& task) {
  const MuonScalars& scalars = *task.scalars;
  std::vector<double> direction(static_cast<size_t>(task.rows * task.cols));
  double sum = 0;
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t col = 0; col < task.cols; ++col) {
      const int64_t i = row * task.cols + col;
      const double g = scalars.gradient_scale * SumOfReplicas(task.gradient, row, col);
      direction[i] = g;
      if (task.momentum_in != nullptr) {
        const double m = task.momentum_in[i] + (1 - scalars.momentum) * (g - task.momentum_in[i]);
        task.momentum_out[i] = static_cast<float>(m);
        direction[i] = scalars.nesterov ? g + scalars.momentum * (m - g) : m;
      }
      sum += direction[i] * direction[i];
    }
  }
  const double norm = std::sqrt(sum);
  double divisor = std::isnan(norm) ? norm : std::max(norm, scalars.eps);
  if (divisor == 0) divisor = 1;
  const double scale = SafeScale(divisor, scalars.eps);
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t col = 0; col < task.cols; ++col) {
      Put(task.direction, row, col, direction[row * task.cols + col] * scale);
    }
  }
  *task.direction_norm = divisor * scale;
}

void MultiplyOne(const Product& product) {
  const Matrix& d = product.d;
  const int64_t depth = product.a_transposed ? product.a.rows : product.a.cols;
  double divisor = 1;
  if (product.alpha_divisor != nullptr) {
    divisor =
        std::pow(std::max(*product.alpha_divisor, product.divisor_floor), product.divisor_power);
  }
  for (int64_t row = 0; row < d.rows; ++row) {
    const int64_t cols = product.symmetric ? row + 1 : d.cols;
    for (int64_t col = 0; col < cols; ++col) {
      double sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        sum += (product.a_transposed ? At(product.a, k, row) : At(product.a, row, k)) *
               (product.b_transposed ? At(product.b, col, k) : At(product.b, k, col));
      }
      sum *= product.alpha / divisor;
      if (product.c.data != nullptr) sum += product.beta / divisor * At(product.c, row, col);
      const bool on_diagonal = row == col;
      Put(d, row, col, on_diagonal ? sum + product.diagonal : sum);
      if (product.d2.data != nullptr)
        Put(product.d2, row, col, on_diagonal ? sum + product.diagonal2 : sum);
    }
  }
  if (!product.symmetric) return;
  for (int64_t row = 0; row < d.rows; ++row) {
    for (int64_t col = 0; col < row; ++col) {
      Put(d, col, row, At(d, row, col));
      if (product.d2.data != nullptr) Put(product.d2, col, row, At(product.d2, row, col));
    }
  }
}

void ApplyOne(const ApplyTask& task) {
  const MuonScalars& scalars = *task.scalars;
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t col = 0; col < task.cols; ++col) {
      const double p = ParameterAt(task.parameter_in, row, col);
      Put(task.parameter_out, row, col,
          (1 - scalars.lr * scalars.weight_decay) * p -
              scalars.lr * scalars.update_scale * At(task.update, row, col));
    }
  }
}

void AdamWOne(const AdamWTask& task) {
  const AdamWScalars& scalars = *task.scalars;
  const double step = *task.step_in + (task.present ? 1 : 0);
  const double correction1 = 1 - std::pow(scalars.beta1, step);
  const double correction2 = 1 - std::pow(scalars.beta2, step);
  for (int64_t row = 0; row < task.rows; ++row) {
    for (int64_t col = 0; col < task.cols; ++col) {
      const int64_t i = row * task.cols + col;
      double p = ParameterAt(task.parameter_in, row, col);
      double m = task.exp_avg_in[i];
      double v = task.exp_avg_sq_in[i];
      if (task.present) {
        const double g = scalars.gradient_scale * SumOfReplicas(task.gradient, row, col);
        p *= 1 - scalars.lr * scalars.weight_decay;
        m = scalars.beta1 * m + (1 - scalars.beta1) * g;
        v = scalars.beta2 * v + (1 - scalars.beta2) * g * g;
        p -= scalars.lr / correction1 * m / (std::sqrt(v) / std::sqrt(correction2) + scalars.eps);
      }
      task.exp_avg_out[i] = static_cast<float>(m);
      task.exp_avg_sq_out[i] = static_cast<float>(v);
      Put(task.parameter_out, row, col, p);
    }
  }
  *task.step_out = step;
}

void ScatterOne(const ScatterTask& task) {
  for (const Block& block : task.destinations) {
    for (int64_t row = 0; row < block.rows; ++row) {
      for (int64_t col = 0; col < block.cols; ++col) {
        const int64_t source_row = block.row + row;
        const int64_t source_col = block.col + col;
        if (source_row >= task.source.rows || source_col >= task.source.cols) continue;
        reference::Store(block.data, row * block.ld + col, block.dtype,
                         At(task.source, source_row, source_col));
      }
    }
  }
}

template <typename Task, typename Function>
void Enqueue(Stream& stream, absl::Span<const Task> tasks, Function function) {
  if (tasks.empty()) return;
  stream.Host([list = std::vector<Task>(tasks.begin(), tasks.end()), function] {
    for (const Task& task : list) function(task);
  });
}

class ReferenceOps final : public Ops {
 public:
  DType iterate_dtype() const override { return DType::kFloat32; }
  void Measure(Stream& stream, absl::Span<const MeasureTask> tasks) override {
    Enqueue(stream, tasks, MeasureOne);
  }
  void Direction(Stream& stream, absl::Span<const DirectionTask> tasks) override {
    Enqueue(stream, tasks, DirectionOne);
  }
  void Multiply(Stream& stream, absl::Span<const Product> products) override {
    Enqueue(stream, products, MultiplyOne);
  }
  void Apply(Stream& stream, absl::Span<const ApplyTask> tasks) override {
    Enqueue(stream, tasks, ApplyOne);
  }
  void AdamW(Stream& stream, absl::Span<const AdamWTask> tasks) override {
    Enqueue(stream, tasks, AdamWOne);
  }
  void Scatter(Stream& stream, absl::Span<const ScatterTask> tasks) override {
    Enqueue(stream, tasks, ScatterOne);
  }
  void Flip(Stream& stream, const FlipTask& task) override {
    stream.Host([task] {
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (task.mark != nullptr && task.mark->load(std::memory_order_acquire) != 0) return;
      StoreCell(task.word, task.value);
    });
  }
};

}  // namespace

std::unique_ptr<Ops> CreateReferenceOps() { return std::make_unique<ReferenceOps>(); }

}  // namespace muond
