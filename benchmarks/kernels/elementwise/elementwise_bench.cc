// The element-wise passes against the copy bandwidth of the same run. Random data, medians, everything far larger than L2.
// usage: elementwise_bench [millions of parameters, default 512]
// Prints one line a pass: name, milliseconds, GB/s of the bytes that the pass must move, share of the copy.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops/convert.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {
namespace {

constexpr int kRepeats = 15;

class Bench {
 public:
  explicit Bench(int64_t elements) : elements_(elements), rows_(elements / kCols / kTensors) {
    backend_ = CreateCudaBackend().value();
    device_ = backend_->devices()[0].get();
    stream_ = device_->CreateStream().value();
    ops_ = CreateCudaOps(*device_).value();
    elements_ = rows_ * kCols * kTensors;
    for (int i = 0; i < kBuffers; ++i) {
      const DType dtype = i < kFloatBuffers ? DType::kFloat32 : DType::kBFloat16;
      buffers_[i] = device_->Allocate(static_cast<size_t>(elements_) * SizeOf(dtype)).value();
      Fill(*buffers_[i], dtype);
    }
    page_ = CreateHostSlab("bench", 4096).value();
    char* page = static_cast<char*>(page_->data());
    muon_ = new (page) MuonScalars{.lr = 0.01, .weight_decay = 0.1, .momentum = 0.95};
    adamw_ = new (page + 256) AdamWScalars{.lr = 1e-3, .weight_decay = 0.1};
    measurements_ = CreateHostSlab("bench", kTensors * sizeof(Measurement)).value();
    doubles_ = device_->Allocate(3 * kTensors * sizeof(double)).value();
    std::printf("%s, %d tensors of %lld x %lld, %.1f million parameters\n",
                device_->info().name.c_str(), kTensors, static_cast<long long>(rows_),
                static_cast<long long>(kCols), static_cast<double>(elements_) / 1e6);
    Report("copy", 8, [this] {
      stream_->Copy(buffers_[1]->data(), buffers_[0]->data(), static_cast<size_t>(elements_) * 4);
    });
  }

  void Run() {
    Measure("measure fp32", DType::kFloat32, 1);
    Measure("measure bf16", DType::kBFloat16, 1);
    Measure("measure fp32, 4 column shards", DType::kFloat32, 4);
    Direction("direction fp32", DType::kFloat32, 1, 1);
    Direction("direction bf16", DType::kBFloat16, 1, 1);
    Direction("direction fp32, 8 row shards", DType::kFloat32, 8, 1);
    Direction("direction fp32, 4 column shards", DType::kFloat32, 1, 4);
    Direction("direction bf16, 4 column shards", DType::kBFloat16, 1, 4);
    Direction("direction fp32, 2 replicas", DType::kFloat32, 1, 1, 2);
    Direction("direction fp32, 4 replicas", DType::kFloat32, 1, 1, 4);
    Direction("direction bf16, 8 replicas", DType::kBFloat16, 1, 1, 8);
    Apply("apply fp32", DType::kFloat32);
    Apply("apply bf16", DType::kBFloat16);
    AdamW("adamw fp32", DType::kFloat32);
    AdamW("adamw bf16 parameters", DType::kBFloat16);
    Scatter("scatter fp32 to bf16");
  }

 private:
  static constexpr int kTensors = 32;
  static constexpr int kFloatBuffers = 8, kBuffers = 10;
  static constexpr int64_t kCols = 4096;

  void Fill(Buffer& buffer, DType dtype) {
    static const std::vector<float> noise = [] {
      std::vector<float> values(1 << 22);
      std::mt19937 random(7);
      std::normal_distribution<float> normal(0, 0.1f);
      for (float& value : values) value = normal(random);
      return values;
    }();
    std::vector<uint16_t> halves;
    for (const float value : noise) halves.push_back(FloatToBFloat16(value));
    const void* const from =
        dtype == DType::kFloat32 ? static_cast<const void*>(noise.data()) : halves.data();
    char* const data = static_cast<char*>(buffer.data());
    const size_t piece = noise.size() * SizeOf(dtype);
    for (size_t at = 0; at < buffer.size_bytes(); at += piece) {
      stream_->Copy(data + at, at == 0 ? from : data, std::min(piece, buffer.size_bytes() - at));
    }
    Check();
  }

  // The gradient's and the parameter's buffer.
  static int GradientOf(DType dtype) { return dtype == DType::kFloat32 ? 0 : kFloatBuffers; }
  static int ParameterOf(DType dtype) { return dtype == DType::kFloat32 ? 1 : kFloatBuffers + 1; }

  void Check() {
    if (absl::Status status = stream_->Synchronize(); !status.ok()) {
      std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
      std::exit(1);
    }
  }

  void Record(cudaEvent_t event) {
    static_cast<CudaStream&>(*stream_).Enqueue(
        "event", [event](cudaStream_t s) { return cudaEventRecord(event, s); });
  }

  void Report(const char* name, double bytes_each, const std::function<void()>& work) {
    cudaEvent_t events[2];
    for (cudaEvent_t& event : events) (void)cudaEventCreate(&event);
    std::vector<float> times;
    for (int i = -3; i < kRepeats; ++i) {
      Record(events[0]);
      work();
      Record(events[1]);
      Check();
      float milliseconds = 0;
      (void)cudaEventElapsedTime(&milliseconds, events[0], events[1]);
      if (i >= 0) times.push_back(milliseconds);
    }
    std::sort(times.begin(), times.end());
    const double median = times[times.size() / 2];
    const double rate = bytes_each * static_cast<double>(elements_) / median / 1e6;
    if (copy_rate_ == 0) copy_rate_ = rate;
    std::printf("%-34s %8.3f ms %8.0f GB/s %6.1f %%\n", name, median, rate,
                100 * rate / copy_rate_);
    std::fflush(stdout);
    for (cudaEvent_t& event : events) (void)cudaEventDestroy(event);
  }

  // Tensor `i` of the buffer, seen as `dtype`.
  Matrix Tensor(int buffer, int i, DType dtype) const {
    char* const data = static_cast<char*>(buffers_[buffer]->data());
    return {data + static_cast<size_t>(i * rows_ * kCols) * SizeOf(dtype), rows_, kCols, kCols,
            dtype};
  }
  float* Floats(int buffer, int i) const {
    return static_cast<float*>(Tensor(buffer, i, DType::kFloat32).data);
  }

  // The same bytes as row shards and column shards; a column shard is a dense matrix of its own.
  std::vector<Block> Blocks(int buffer, int i, DType dtype, int row_shards, int col_shards) const {
    const Matrix whole = Tensor(buffer, i, dtype);
    std::vector<Block> blocks;
    const int64_t rows = rows_ / row_shards, cols = kCols / col_shards;
    char* next = static_cast<char*>(whole.data);
    for (int r = 0; r < row_shards; ++r) {
      for (int c = 0; c < col_shards; ++c) {
        const int64_t taken = r + 1 == row_shards ? rows_ - r * rows : rows;
        blocks.push_back({next, r * rows, c * cols, taken, cols, cols, dtype, 0});
        next += static_cast<size_t>(taken * cols) * SizeOf(dtype);
      }
    }
    return blocks;
  }

  void Measure(const char* name, DType dtype, int col_shards) {
    std::vector<MeasureTask> tasks;
    for (int i = 0; i < kTensors; ++i) {
      tasks.push_back({Blocks(GradientOf(dtype), i, dtype, 1, col_shards), rows_, kCols, true,
                       static_cast<Measurement*>(measurements_->data()) + i});
    }
    Report(name, static_cast<double>(SizeOf(dtype)), [&] { ops_->Measure(*stream_, tasks); });
  }

  // Replica r of tensor i: another tensor's values, of another buffer for two neighbours.
  std::vector<Block> Replica(int r, int i, DType dtype) const {
    const int buffer = GradientOf(dtype) + (r % 2 == 0 ? 0 : dtype == DType::kFloat32 ? 4 : 1);
    std::vector<Block> blocks = Blocks(buffer, (i + 5 * (r / 2)) % kTensors, dtype, 1, 1);
    blocks[0].replica = r;
    return blocks;
  }

  void Direction(const char* name, DType gradient, int row_shards, int col_shards,
                 int replicas = 1) {
    std::vector<DirectionTask> tasks;
    for (int i = 0; i < kTensors; ++i) {
      std::vector<Block> blocks = Blocks(GradientOf(gradient), i, gradient, row_shards, col_shards);
      for (int r = 1; r < replicas; ++r) blocks.push_back(Replica(r, i, gradient)[0]);
      tasks.push_back({rows_, kCols, std::move(blocks), Floats(1, i), Floats(2, i),
                       Tensor(3, i, DType::kFloat16), static_cast<double*>(doubles_->data()) + i,
                       muon_});
    }
    Report(name, static_cast<double>(SizeOf(gradient)) * replicas + 10,
           [&] { ops_->Direction(*stream_, tasks); });
  }

  void Apply(const char* name, DType dtype) {
    std::vector<ApplyTask> tasks;
    for (int i = 0; i < kTensors; ++i) {
      tasks.push_back({rows_, kCols, Blocks(ParameterOf(dtype), i, dtype, 1, 1),
                       Tensor(4, i, dtype), Tensor(3, i, DType::kFloat16), muon_});
    }
    Report(name, 2.0 * static_cast<double>(SizeOf(dtype)) + 2,
           [&] { ops_->Apply(*stream_, tasks); });
  }

  std::vector<AdamWTask> AdamWTasks(DType dtype, int second_in, int second_out) const {
    auto* const steps = static_cast<double*>(doubles_->data());
    std::vector<AdamWTask> tasks;
    for (int i = 0; i < kTensors; ++i) {
      AdamWTask task;
      task.rows = rows_;
      task.cols = kCols;
      task.gradient = Blocks(GradientOf(dtype), i, dtype, 1, 1);
      task.parameter_in = Blocks(ParameterOf(dtype), i, dtype, 1, 1);
      task.parameter_out = Tensor(4, i, dtype);
      task.exp_avg_in = Floats(2, i);
      task.exp_avg_out = Floats(5, i);
      task.exp_avg_sq_in = Floats(second_in, i);
      task.exp_avg_sq_out = Floats(second_out, i);
      task.step_in = steps + kTensors + i;
      task.step_out = steps + 2 * kTensors + i;
      task.scalars = adamw_;
      tasks.push_back(std::move(task));
    }
    return tasks;
  }

  void AdamW(const char* name, DType dtype) {
    // A second moment is not negative: one step from zero makes one.
    stream_->Zero(buffers_[6]->data(), buffers_[6]->size_bytes());
    ops_->AdamW(*stream_, AdamWTasks(dtype, 6, 7));
    const std::vector<AdamWTask> tasks = AdamWTasks(dtype, 7, 6);
    Report(name, 16 + 3.0 * static_cast<double>(SizeOf(dtype)),
           [&] { ops_->AdamW(*stream_, tasks); });
  }

  void Scatter(const char* name) {
    std::vector<ScatterTask> tasks;
    for (int i = 0; i < kTensors; ++i) {
      tasks.push_back(
          {Tensor(0, i, DType::kFloat32), Blocks(kFloatBuffers + 1, i, DType::kBFloat16, 4, 1)});
    }
    Report(name, 6, [&] { ops_->Scatter(*stream_, tasks); });
  }

  int64_t elements_;
  const int64_t rows_;
  double copy_rate_ = 0;
  std::unique_ptr<Backend> backend_;
  Device* device_ = nullptr;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Buffer> buffers_[kBuffers];
  std::unique_ptr<Buffer> doubles_;
  std::unique_ptr<Slab> page_, measurements_;
  MuonScalars* muon_ = nullptr;
  AdamWScalars* adamw_ = nullptr;
};

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  const long millions = argc > 1 ? std::atol(argv[1]) : 512;
  if (millions < 4 || millions > 4096) {
    std::fprintf(stderr, "usage: elementwise_bench [millions of parameters, 4 to 4096]\n");
    return 2;
  }
  muond::Bench(static_cast<int64_t>(millions) << 20).Run();
}
