// Newton-Schulz of whole models on one Hopper GPU: milliseconds, share of the symmetric floor at the sustained rate Ps
// measured in the same run, cuBLAS dense beside it.
//
//   newton_schulz_bench [--table NAME] [--workspace-mib N] [--memory-mib N] [--divide N] [--per-shape] [--json FILE] LIST.csv ...
//
// The floor counts symmetric products as triangles and takes the cheaper of the standard form and the Gram form with one
// restart, whatever the library runs. Every timed run starts from fresh N(0, 1) matrices; short lists are repeated over copies
// of their own until a run takes 300 ms, so that the chip is hot.
// --divide takes one matrix in N of every shape (at least one); lists that would not fit the device are divided further by
// themselves, and the table says by how much. A matrix that does not fit the workspace alone gets what it needs.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "benchmarks/kernels/cublas_peer.h"
#include "benchmarks/kernels/device_data.h"
#include "benchmarks/kernels/model_list.h"
#include "benchmarks/kernels/prepared_list.h"

namespace muond::bench {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}
void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  std::exit(2);
}

struct Options {
  std::string table = "jordan";
  uint64_t workspace_bytes = uint64_t{2} << 30;
  uint64_t memory_bytes = UINT64_MAX;  // of the device, for workspace and matrices
  int64_t divide = 1;
  bool per_shape = false;
  std::string json;
  std::vector<std::string> lists;
};

struct Result {
  double ms = 0, floor_flop = 0;
  size_t matrices = 0, rounds = 0;
  uint64_t workspace_bytes = 0, list_bytes = 0;
};

// The least that the polynomial needs, in FLOP: 15 a + 5 or 6 a + 14 units of s^3 for five steps, a = l / s.
double FloorFlop(int64_t rows, int64_t cols, size_t steps) {
  const double side = static_cast<double>(std::min(rows, cols));
  const double aspect = static_cast<double>(std::max(rows, cols)) / side;
  const double count = static_cast<double>(steps);
  return std::min(count * (3 * aspect + 1), 6 * aspect + 4 * count - 6) * side * side * side;
}

class Bench {
 public:
  explicit Bench(const Options& options) : options_(options) {
    Check(cudaStreamCreate(&stream_), "stream");
    auto products = GroupedProducts::Create();
    Check(products.status());
    products_ = *std::move(products);
    auto table = FindCoefficientTable(options.table, 0);
    Check(table.status());
    table_ = *table;
    size_t free_bytes = 0, total = 0;
    Check(cudaMemGetInfo(&free_bytes, &total), "memory");
    pool_bytes_ = std::min<uint64_t>(free_bytes - (size_t{2} << 30), options.memory_bytes);
    Check(cudaMalloc(reinterpret_cast<void**>(&pool_), pool_bytes_), "pool");
    auto peer = CublasPeer::Create(stream_, pool_, pool_bytes_);
    Check(peer.status());
    peer_.push_back(*std::move(peer));
  }

  CublasPeer& peer() { return peer_[0]; }
  size_t steps() const { return table_.steps.size(); }

  // How far the list has to be divided to fit the device.
  int64_t Divide(const std::vector<ModelShape>& shapes) {
    divide_ = options_.divide;
    SetWorkspace(shapes);
    for (int64_t largest = 1; divide_ <= (int64_t{1} << 40); divide_ *= 2) {
      if (workspace_bytes_ + Bytes(shapes) <= pool_bytes_) return divide_;
      largest = 0;
      for (const ModelShape& s : shapes) largest = std::max(largest, Count(s));
      if (largest == 1) break;
    }
    std::fprintf(
        stderr,
        "one matrix of every shape takes %.1f GiB beside %.1f of workspace; there are %.1f\n",
        static_cast<double>(Bytes(shapes)) / 1073741824.0,
        static_cast<double>(workspace_bytes_) / 1073741824.0,
        static_cast<double>(pool_bytes_) / 1073741824.0);
    std::exit(2);
  }

  // REQUIRES: Divide of these shapes, or of a list that has them.
  Result Run(const std::vector<ModelShape>& shapes, double hot_ms) {
    Result result;
    // One copy first, for the time it takes.
    result.ms = Time(shapes, 1, 1, &result);
    const uint64_t bytes = Bytes(shapes);
    const auto fits = (pool_bytes_ - workspace_bytes_) / bytes;
    const auto wanted = static_cast<uint64_t>(std::ceil(hot_ms / result.ms));
    const int copies =
        static_cast<int>(std::clamp<uint64_t>(wanted, 1, std::max<uint64_t>(fits, 1)));
    result.ms = Time(shapes, copies, 3, &result);
    return result;
  }

  int64_t Count(const ModelShape& shape) const {
    return std::max<int64_t>(1, shape.count / divide_);
  }

 private:
  // The option's, or what the largest matrix needs with its direction.
  void SetWorkspace(const std::vector<ModelShape>& shapes) {
    workspace_bytes_ = options_.workspace_bytes;
    for (const ModelShape& s : shapes) {
      const NewtonSchulzTask task{
          {nullptr, s.rows, s.cols, Padded(s.cols), DType::kFloat16}, nullptr, &table_};
      workspace_bytes_ = std::max(workspace_bytes_, PreparedList::BytesOf(task));
    }
    workspace_ = pool_;
    matrices_ = pool_ + std::min(workspace_bytes_, pool_bytes_);
  }
  static int64_t Padded(int64_t cols) { return (cols + 15) / 16 * 16; }
  uint64_t Bytes(const std::vector<ModelShape>& shapes) const {
    uint64_t bytes = 0;
    for (const ModelShape& s : shapes) {
      bytes += static_cast<uint64_t>(Count(s)) *
               (static_cast<uint64_t>(s.rows) * static_cast<uint64_t>(Padded(s.cols)) * 2 + 512);
    }
    return bytes;
  }

  // Median over `repeats` of the time of all copies, divided by `copies`.
  double Time(const std::vector<ModelShape>& shapes, int copies, int repeats, Result* result) {
    std::vector<NewtonSchulzTask> tasks;
    std::vector<PreparedList> lists;
    char* next = matrices_;
    *result = Result();
    for (int copy = 0; copy < copies; ++copy) {
      const size_t first = tasks.size();
      for (const ModelShape& s : shapes) {
        const int64_t ld = Padded(s.cols);
        const double norm = std::sqrt(static_cast<double>(s.rows) * static_cast<double>(s.cols));
        for (int64_t i = 0; i < Count(s); ++i) {
          auto* const norm_place = reinterpret_cast<double*>(next);
          Check(cudaMemcpy(norm_place, &norm, sizeof(norm), cudaMemcpyHostToDevice), "norm");
          const Matrix x{next + 256, s.rows, s.cols, ld, DType::kFloat16};
          next += 256 + (s.rows * ld * 2 + 255) / 256 * 256;
          tasks.push_back({x, norm_place, &table_});
          if (copy == 0) {
            result->floor_flop += FloorFlop(s.rows, s.cols, table_.steps.size());
            ++result->matrices;
          }
        }
      }
      auto list = PreparedList::Create(*products_, absl::MakeSpan(tasks).subspan(first), workspace_,
                                       workspace_bytes_);
      Check(list.status());
      result->rounds = list->rounds();
      result->workspace_bytes = list->workspace_bytes();
      result->list_bytes = list->device_bytes();
      lists.push_back(*std::move(list));
    }
    cudaEvent_t begin, end;
    Check(cudaEventCreate(&begin), "event");
    Check(cudaEventCreate(&end), "event");
    std::vector<double> times;
    for (int repeat = 0; repeat < repeats; ++repeat) {
      for (const NewtonSchulzTask& task : tasks) FillNormal(stream_, task.x, ++seed_);
      Check(cudaEventRecord(begin, stream_), "event");
      for (PreparedList& list : lists) Check(list.Launch(stream_));
      Check(cudaEventRecord(end, stream_), "event");
      Check(cudaEventSynchronize(end), "Newton-Schulz");
      float ms = 0;
      Check(cudaEventElapsedTime(&ms, begin, end), "time");
      times.push_back(static_cast<double>(ms) / copies);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  const Options options_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<GroupedProducts> products_;
  CoefficientTable table_;
  char* pool_ = nullptr;
  char* matrices_ = nullptr;
  void* workspace_ = nullptr;
  uint64_t pool_bytes_ = 0, workspace_bytes_ = 0;
  int64_t divide_ = 1;
  std::vector<CublasPeer> peer_;
  uint64_t seed_ = 0;
};

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const auto value = [&]() -> const char* {
      if (i + 1 >= argc) {
        std::fprintf(stderr, "%s needs a value\n", argv[i]);
        std::exit(1);
      }
      return argv[++i];
    };
    const std::string word = argv[i];
    if (word == "--table") {
      options.table = value();
    } else if (word == "--workspace-mib") {
      options.workspace_bytes = std::strtoull(value(), nullptr, 10) << 20;
    } else if (word == "--memory-mib") {
      options.memory_bytes = std::strtoull(value(), nullptr, 10) << 20;
    } else if (word == "--divide") {
      options.divide = std::max(1LL, std::strtoll(value(), nullptr, 10));
    } else if (word == "--per-shape") {
      options.per_shape = true;
    } else if (word == "--json") {
      options.json = value();
    } else {
      options.lists.push_back(word);
    }
  }
  return options;
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  Bench bench(options);
  const double ps = bench.peer().SustainedRate(DType::kFloat16, 8192, 1200);
  const double ps_bf16 = bench.peer().SustainedRate(DType::kBFloat16, 8192, 200);
  std::printf(
      "Ps: cuBLAS fp16 8192^3 back to back %.0f TFLOP/s, bf16 %.0f; table %s; workspace %.0f MiB\n",
      ps / 1e12, ps_bf16 / 1e12, options.table.c_str(),
      static_cast<double>(options.workspace_bytes) / 1048576.0);
  std::printf("%-26s %8s %9s %9s %7s %7s %11s %13s\n", "list", "matrices", "ms", "floor ms",
              "share", "TFLOP/s", "cuBLAS ms", "workspace MiB");
  std::string json = absl::StrFormat("{\"ps\": %.4e, \"ps_bf16\": %.4e, \"lists\": [", ps, ps_bf16);
  const char* separator = "";
  for (const std::string& path : options.lists) {
    auto shapes = ReadModelList(path);
    Check(shapes.status());
    if (shapes->empty()) continue;
    const std::string file = path.substr(path.rfind('/') + 1);
    const int64_t divide = bench.Divide(*shapes);
    if (divide != options.divide) {
      std::printf("%s does not fit the device: one matrix in %d\n", file.c_str(),
                  static_cast<int>(divide));
    }
    const auto line = [&](const std::string& name, const ModelShape* shape, const Result& r,
                          double cublas_ms) {
      const double floor_ms = r.floor_flop / ps * 1e3;
      std::printf("%-26s %8zu %9.3f %9.3f %6.1f%% %7.0f %11.3f %13.0f\n", name.c_str(), r.matrices,
                  r.ms, floor_ms, 100 * floor_ms / r.ms, r.floor_flop / r.ms / 1e9, cublas_ms,
                  static_cast<double>(r.workspace_bytes) / 1048576.0);
      std::fflush(stdout);
      json += absl::StrFormat(
          "%s{\"list\": \"%s\", \"name\": \"%s\", \"rows\": %d, \"cols\": %d, \"divide\": %d, "
          "\"matrices\": %d, "
          "\"ms\": %.5f, \"floor_ms\": %.5f, \"cublas_ms\": %.5f, \"rounds\": %d, "
          "\"workspace_bytes\": %d, "
          "\"list_bytes\": %d}",
          separator, file, shape == nullptr ? "" : shape->name, shape == nullptr ? 0 : shape->rows,
          shape == nullptr ? 0 : shape->cols, divide, r.matrices, r.ms, floor_ms, cublas_ms,
          r.rounds, r.workspace_bytes, r.list_bytes);
      separator = ", ";
    };
    double cublas_ms = 0;
    std::vector<double> cublas_shape;
    for (const ModelShape& s : *shapes) {
      const double one =
          bench.peer().DenseNewtonSchulz(s.rows, s.cols, static_cast<int>(bench.steps()), 60);
      cublas_shape.push_back(one * static_cast<double>(bench.Count(s)));
      cublas_ms += cublas_shape.back();
    }
    line(file, nullptr, bench.Run(*shapes, 300), cublas_ms);
    for (size_t i = 0; options.per_shape && i < shapes->size(); ++i) {
      const ModelShape& s = (*shapes)[i];
      line(absl::StrFormat("  %s %dx%d", s.name, s.rows, s.cols), &s, bench.Run({s}, 100),
           cublas_shape[i]);
    }
  }
  const double ps_after = bench.peer().SustainedRate(DType::kFloat16, 8192, 400);
  std::printf("Ps at the end: %.0f TFLOP/s\n", ps_after / 1e12);
  if (!options.json.empty()) {
    std::FILE* const file = std::fopen(options.json.c_str(), "w");
    if (file == nullptr) return 1;
    std::fprintf(file, "%s], \"ps_end\": %.4e}\n", json.c_str(), ps_after);
    std::fclose(file);
  }
  return 0;
}

}  // namespace
}  // namespace muond::bench

int main(int argc, char** argv) { return muond::bench::Main(argc, argv); }
