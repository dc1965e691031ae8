// The element-wise verbs of one CPU device, beside memcpy: GB/s of what they must read and write.
//
//   cpu_passes [MILLIONS_OF_ELEMENTS]
//
// Times are CPU seconds of the stream's thread (a busy machine does not change them much), the least of seven runs.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops/convert.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/backend.h"

namespace muond {
namespace {

double ThreadSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

struct Passes {
  std::unique_ptr<Backend> backend = CreateCpuBackend({}).value();
  std::unique_ptr<Stream> stream = backend->devices()[0]->CreateStream().value();
  std::unique_ptr<Ops> ops = CreateCpuOps();

  void Report(const char* name, double bytes, const std::function<void()>& enqueue) {
    double best = 1e9, start = 0, end = 0;
    for (int round = 0; round < 8; ++round) {
      stream->Host([&] { start = ThreadSeconds(); });
      enqueue();
      stream->Host([&] { end = ThreadSeconds(); });
      if (!stream->Synchronize().ok()) std::abort();
      if (round > 0) best = std::min(best, end - start);
    }
    std::printf("%-34s %8.2f ms  %6.1f GB/s\n", name, best * 1e3, bytes / best * 1e-9);
  }
};

int Main(int64_t elements) {
  Passes passes;
  const int64_t cols = 4096, rows = elements / cols;
  const auto count = static_cast<size_t>(rows * cols);
  const double n = static_cast<double>(count);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> g(count), m(count), v(count), p(count), m_out(count), v_out(count),
      p_out(count), x(count);
  std::vector<uint16_t> half(count), half_out(count);
  for (size_t i = 0; i < count; ++i) {
    g[i] = normal(random);
    m[i] = normal(random);
    v[i] = m[i] * m[i];
    p[i] = normal(random);
    half[i] = FloatToBFloat16(g[i]);
  }
  double norm = 0, step_in = 3, step_out = 0;
  MuonScalars muon{.lr = 0.02, .weight_decay = 0.1, .momentum = 0.95};
  AdamWScalars adamw{.lr = 1e-3, .weight_decay = 0.1};
  Measurement measurement;
  const auto block = [&](std::vector<float>& data) {
    return Block{data.data(), 0, 0, rows, cols, cols};
  };
  const Block half_block{half.data(), 0, 0, rows, cols, cols, DType::kBFloat16};
  const Matrix direction{x.data(), rows, cols, cols}, out{p_out.data(), rows, cols, cols};
  const Matrix out16{half_out.data(), rows, cols, cols, DType::kBFloat16};

  passes.Report("memcpy", 8 * n, [&] { passes.stream->Copy(p_out.data(), p.data(), 4 * count); });
  const auto measure = [&](Block gradient, bool want_norm) {
    MeasureTask task{{gradient}, rows, cols, want_norm, &measurement};
    passes.ops->Measure(*passes.stream, {&task, 1});
  };
  passes.Report("measure, finite", 4 * n, [&] { measure(block(g), false); });
  passes.Report("measure, finite and norm", 4 * n, [&] { measure(block(g), true); });
  passes.Report("measure, finite and norm, bf16", 2 * n, [&] { measure(half_block, true); });
  const auto take = [&](std::vector<Block> gradient) {
    DirectionTask task{rows,  cols, std::move(gradient), m.data(), m_out.data(), direction,
                       &norm, &muon};
    passes.ops->Direction(*passes.stream, {&task, 1});
  };
  passes.Report("direction", 16 * n, [&] { take({block(g)}); });
  passes.Report("direction, bf16 gradient", 14 * n, [&] { take({half_block}); });
  passes.Report("direction, two halves of columns", 16 * n, [&] {
    take({{g.data(), 0, 0, rows, cols / 2, cols},
          {g.data() + cols / 2, 0, cols / 2, rows, cols / 2, cols}});
  });
  passes.Report("direction, sum of 4 replicas", 28 * n, [&] {
    std::vector<Block> blocks(4, block(g));
    for (int i = 0; i < 4; ++i) blocks[static_cast<size_t>(i)].replica = i;
    take(std::move(blocks));
  });
  passes.Report("apply", 12 * n, [&] {
    ApplyTask task{rows, cols, {block(p)}, out, direction, &muon};
    passes.ops->Apply(*passes.stream, {&task, 1});
  });
  passes.Report("apply, bf16 parameter", 8 * n, [&] {
    ApplyTask task{rows, cols, {half_block}, out16, direction, &muon};
    passes.ops->Apply(*passes.stream, {&task, 1});
  });
  passes.Report("adamw", 28 * n, [&] {
    AdamWTask task{rows,     cols,         true,         {block(g)}, {block(p)}, out,   m.data(),
                   v.data(), m_out.data(), v_out.data(), &step_in,   &step_out,  &adamw};
    passes.ops->AdamW(*passes.stream, {&task, 1});
  });
  passes.Report("scatter to two halves of rows", 8 * n, [&] {
    ScatterTask task{
        out,
        {{p.data(), 0, 0, rows / 2, cols, cols}, {p.data(), rows / 2, 0, rows / 2, cols, cols}}};
    passes.ops->Scatter(*passes.stream, {&task, 1});
  });
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) { return muond::Main((argc > 1 ? std::atoll(argv[1]) : 8) << 20); }
