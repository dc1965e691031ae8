// CpuOps: the verbs on a CPU stream. Each verb is one piece of host work that walks its list in order.
// Memory: a call that repeats an earlier one allocates nothing, neither here nor when it runs (block_reader.h has the limits).
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "kernels/ops/cpu/block_reader.h"
#include "kernels/ops/cpu/measure.h"
#include "kernels/ops/cpu/multiply.h"
#include "kernels/ops/cpu/passes.h"
#include "kernels/ops/cpu/task_lists.h"
#include "kernels/ops/ops.h"

namespace muond {
namespace cpu {
namespace {

using Replicas = BlockReader::Replicas;

// Calls `body(begin, count)` for the runs of a rows x cols matrix.
template <typename Body>
void ForRuns(int64_t rows, int64_t cols, Body body) {
  const int64_t size = rows * cols;
  for (int64_t begin = 0; begin < size; begin += kRun) body(begin, std::min(kRun, size - begin));
}

// The power of two that brings `norm` into [1, 2) when its square, or a square of an element, could leave fp32.
// Never where eps would be the larger divisor of the scaled direction.
double SafeScale(double norm, double eps) {
  if (!std::isfinite(norm) || eps >= 1 || (norm >= 0x1p-20 && norm < 0x1p20)) return 1;
  return std::ldexp(1.0, -std::ilogb(norm));
}

void Rescale(const Matrix& matrix, double scale) {
  // A factor of 2^149 is none of fp32's: two halves are, and the product of a rounded value with a power of two is exact
  // as long as it stays normal, which it does on its way to a norm of 1.
  const int exponent = std::ilogb(scale);
  const float halves[2] = {std::ldexp(1.0f, exponent / 2),
                           std::ldexp(1.0f, exponent - exponent / 2)};
  const Block whole{matrix.data, 0, 0, matrix.rows, matrix.cols, matrix.ld, matrix.dtype, 0};
  BlockReader reader({&whole, 1}, matrix.rows, matrix.cols, Replicas::kIgnore);
  float scratch[kRun];
  ForRuns(matrix.rows, matrix.cols, [&](int64_t begin, int64_t count) {
    const float* values = reader.Read(begin, count, scratch);
    std::copy_n(values, count, scratch);
    for (float half : halves) ScaleInPlace(half, count, scratch);
    WriteRun(matrix, begin, count, scratch);
  });
}

void Direction(const DirectionTask& task) {
  const MuonScalars& scalars = *task.scalars;
  const DirectionFactors factors{static_cast<float>(scalars.gradient_scale),
                                 static_cast<float>(1 - scalars.momentum),
                                 static_cast<float>(scalars.momentum), scalars.nesterov};
  BlockReader gradient(task.gradient, task.rows, task.cols, Replicas::kSum);
  float read[kRun];
  float made[kRun];
  double sum = 0;
  ForRuns(task.rows, task.cols, [&](int64_t begin, int64_t count) {
    float* direct = DirectRun(task.direction, begin);
    float* direction = direct != nullptr ? direct : made;
    const float* values = gradient.Read(begin, count, read);
    if (task.momentum_in == nullptr) {
      std::copy_n(values, count, direction);
      ScaleInPlace(factors.gradient_scale, count, direction);
    } else {
      DirectionRun(factors, values, task.momentum_in + begin, count, task.momentum_out + begin,
                   direction);
    }
    sum += SumOfSquares(direction, count);
    if (direct == nullptr) WriteRun(task.direction, begin, count, direction);
  });
  const double norm = std::sqrt(sum);
  double divisor = std::isnan(norm) ? norm : std::max(norm, scalars.eps);
  if (divisor == 0) divisor = 1;  // eps 0 and a gradient of zeros: an update of zeros
  const double scale = SafeScale(divisor, scalars.eps);
  if (scale != 1) Rescale(task.direction, scale);
  *task.direction_norm = divisor * scale;
}

void Apply(const ApplyTask& task) {
  const MuonScalars& scalars = *task.scalars;
  const auto decay = static_cast<float>(1 - scalars.lr * scalars.weight_decay);
  const auto rate = static_cast<float>(scalars.lr * scalars.update_scale);
  BlockReader parameter(task.parameter_in, task.rows, task.cols, Replicas::kIgnore);
  const Block whole{task.update.data,  0, 0, task.rows, task.cols, task.update.ld,
                    task.update.dtype, 0};
  BlockReader update({&whole, 1}, task.rows, task.cols, Replicas::kIgnore);
  float read_parameter[kRun];
  float read_update[kRun];
  float made[kRun];
  ForRuns(task.rows, task.cols, [&](int64_t begin, int64_t count) {
    float* direct = DirectRun(task.parameter_out, begin);
    float* out = direct != nullptr ? direct : made;
    ApplyRun(decay, rate, parameter.Read(begin, count, read_parameter),
             update.Read(begin, count, read_update), count, out);
    if (direct == nullptr) WriteRun(task.parameter_out, begin, count, out);
  });
}

AdamWFactors FactorsOf(const AdamWScalars& scalars, double step) {
  AdamWFactors factors;
  factors.gradient_scale = static_cast<float>(scalars.gradient_scale);
  factors.decay = static_cast<float>(1 - scalars.lr * scalars.weight_decay);
  factors.to_gradient = static_cast<float>(1 - scalars.beta1);
  factors.beta2 = static_cast<float>(scalars.beta2);
  factors.to_square = static_cast<float>(1 - scalars.beta2);
  factors.root_correction = static_cast<float>(std::sqrt(1 - std::pow(scalars.beta2, step)));
  factors.eps = static_cast<float>(scalars.eps);
  factors.step_size = static_cast<float>(scalars.lr / (1 - std::pow(scalars.beta1, step)));
  return factors;
}

void AdamW(const AdamWTask& task) {
  const double step = *task.step_in + (task.present ? 1 : 0);
  const AdamWFactors factors = task.present ? FactorsOf(*task.scalars, step) : AdamWFactors{};
  BlockReader gradient(task.gradient, task.rows, task.cols, Replicas::kSum);
  BlockReader parameter(task.parameter_in, task.rows, task.cols, Replicas::kIgnore);
  float read_gradient[kRun];
  float read_parameter[kRun];
  float made[kRun];
  ForRuns(task.rows, task.cols, [&](int64_t begin, int64_t count) {
    const float* old = parameter.Read(begin, count, read_parameter);
    if (!task.present) {
      if (task.exp_avg_out != task.exp_avg_in)
        std::copy_n(task.exp_avg_in + begin, count, task.exp_avg_out + begin);
      if (task.exp_avg_sq_out != task.exp_avg_sq_in) {
        std::copy_n(task.exp_avg_sq_in + begin, count, task.exp_avg_sq_out + begin);
      }
      WriteRun(task.parameter_out, begin, count, old);
      return;
    }
    float* direct = DirectRun(task.parameter_out, begin);
    float* out = direct != nullptr ? direct : made;
    AdamWRun(factors, gradient.Read(begin, count, read_gradient), old, task.exp_avg_in + begin,
             task.exp_avg_sq_in + begin, count, task.exp_avg_out + begin,
             task.exp_avg_sq_out + begin, out);
    if (direct == nullptr) WriteRun(task.parameter_out, begin, count, out);
  });
  *task.step_out = step;
}

// Rows of the block, run by run: the source's rows are contiguous, so is the block's.
void Scatter(const ScatterTask& task) {
  const Matrix& source = task.source;
  for (const Block& block : task.destinations) {
    const int64_t rows = std::min(block.rows, source.rows - block.row);
    const int64_t cols = std::min(block.cols, source.cols - block.col);
    if (rows <= 0 || cols <= 0) continue;
    const int64_t size = static_cast<int64_t>(SizeOf(source.dtype));
    const char* from =
        static_cast<const char*>(source.data) + (block.row * source.ld + block.col) * size;
    const Matrix to{block.data, rows, cols, block.ld, block.dtype};
    const Block rectangle{const_cast<char*>(from), 0, 0, rows, cols, source.ld, source.dtype, 0};
    BlockReader reader({&rectangle, 1}, rows, cols, Replicas::kIgnore);
    float scratch[kRun];
    ForRuns(rows, cols, [&](int64_t begin, int64_t count) {
      WriteRun(to, begin, count, reader.Read(begin, count, scratch));
    });
  }
}

void Flip(const FlipTask& task) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (task.mark != nullptr && task.mark->load(std::memory_order_acquire) != 0) return;
  StoreCell(task.word, task.value);
}

// One verb's lists, and what it does with a task of them.
template <typename Task>
class Verb {
 public:
  explicit Verb(void (*function)(const Task&)) : function_(function) {}
  void Enqueue(Stream& stream, absl::Span<const Task> tasks) {
    if (tasks.empty()) return;
    stream.Host([list = TaskLists<Task>::Copy(lists_, tasks, function_)] { list->Run(); });
  }

 private:
  void (*const function_)(const Task&);
  const std::shared_ptr<TaskLists<Task>> lists_ = std::make_shared<TaskLists<Task>>();
};

class CpuOps final : public Ops {
 public:
  CpuOps() { UseOneBlasThread(); }
  DType iterate_dtype() const override { return DType::kFloat32; }
  uint64_t preferred_round_bytes() const override { return 16 << 20; }
  void Measure(Stream& stream, absl::Span<const MeasureTask> tasks) override {
    measure_.Enqueue(stream, tasks);
  }
  void Direction(Stream& stream, absl::Span<const DirectionTask> tasks) override {
    direction_.Enqueue(stream, tasks);
  }
  void Multiply(Stream& stream, absl::Span<const Product> products) override {
    multiply_.Enqueue(stream, products);
  }
  void Apply(Stream& stream, absl::Span<const ApplyTask> tasks) override {
    apply_.Enqueue(stream, tasks);
  }
  void AdamW(Stream& stream, absl::Span<const AdamWTask> tasks) override {
    adamw_.Enqueue(stream, tasks);
  }
  void Scatter(Stream& stream, absl::Span<const ScatterTask> tasks) override {
    scatter_.Enqueue(stream, tasks);
  }
  void Flip(Stream& stream, const FlipTask& task) override {
    flip_.Enqueue(stream, absl::MakeConstSpan(&task, 1));
  }

 private:
  Verb<MeasureTask> measure_{&cpu::Measure};
  Verb<DirectionTask> direction_{&cpu::Direction};
  Verb<Product> multiply_{&cpu::Multiply};
  Verb<ApplyTask> apply_{&cpu::Apply};
  Verb<AdamWTask> adamw_{&cpu::AdamW};
  Verb<ScatterTask> scatter_{&cpu::Scatter};
  Verb<FlipTask> flip_{&cpu::Flip};
};

}  // namespace
}  // namespace cpu

std::unique_ptr<Ops> CreateCpuOps() { return std::make_unique<cpu::CpuOps>(); }

}  // namespace muond
