// Times the CPU Newton-Schulz for cpu_newton_schulz.py, which times torch between our runs.
//
//   cpu_newton_schulz_worker DEVICES
//
// Reads lines "ROWS COLS TABLE ALGORITHM" (algorithm: chosen, standard, gram), runs one matrix of that shape on each
// device at once, direction pass included, and answers "WALL_SECONDS CPU_SECONDS": for all DEVICES matrices together.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops/ops.h"
#include "kernels/optim/newton_schulz.h"
#include "kernels/runtime/backend.h"

namespace muond {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// One device with a matrix of its own.
class Worker {
 public:
  Worker(Device& device, int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), stream_(device.CreateStream().value()), ops_(CreateCpuOps()) {
    const auto elements = static_cast<size_t>(rows * cols);
    std::mt19937 random(static_cast<uint32_t>(rows * 31 + cols));
    std::normal_distribution<float> normal;
    gradient_.resize(elements);
    for (float& value : gradient_) value = normal(random);
    momentum_.assign(elements, 0);
    direction_.assign(elements, 0);
    scalars_.momentum = 0.95;
  }

  void Enqueue(const CoefficientTable& table, const std::string& algorithm) {
    const Matrix x{direction_.data(), rows_, cols_, cols_};
    const Block block{gradient_.data(), 0, 0, rows_, cols_, cols_};
    const DirectionTask direction{rows_, cols_,  {block},  momentum_.data(), momentum_.data(),
                                  x,     &norm_, &scalars_};
    const NewtonSchulzTask task{x, &norm_, &table};
    workspace_.resize(WorkspaceBytes(task));
    ops_->Direction(*stream_, {&direction, 1});
    if (algorithm == "chosen") {
      NewtonSchulz(*ops_, *stream_, {&task, 1}, workspace_.data());
    } else {
      NewtonSchulzWith(
          algorithm == "gram" ? NewtonSchulzAlgorithm::kGram : NewtonSchulzAlgorithm::kStandard,
          *ops_, *stream_, {&task, 1}, workspace_.data());
    }
  }
  void Finish() {
    if (!stream_->Synchronize().ok()) std::abort();
  }

 private:
  // Enough for either algorithm.
  size_t WorkspaceBytes(const NewtonSchulzTask& task) const {
    const auto side = static_cast<size_t>(std::min(rows_, cols_) + 16);
    return NewtonSchulzWorkspaceBytes(*ops_, {&task, 1}) + 5 * side * side * sizeof(float);
  }

  const int64_t rows_, cols_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Ops> ops_;
  std::vector<float> gradient_, momentum_, direction_;
  std::vector<char> workspace_;
  MuonScalars scalars_;
  double norm_ = 0;
};

int Main(int devices) {
  auto backend = CreateCpuBackend({.devices = devices}).value();
  int64_t rows = 0, cols = 0;
  std::string name, algorithm;
  while (std::cin >> rows >> cols >> name >> algorithm) {
    const CoefficientTable table = FindCoefficientTable(name, 0).value();
    std::vector<std::unique_ptr<Worker>> workers;
    for (const auto& device : backend->devices())
      workers.push_back(std::make_unique<Worker>(*device, rows, cols));
    double wall = 0, cpu = 0;
    for (int round = 0; round < 2; ++round) {  // the first one touches the memory
      const auto start = std::chrono::steady_clock::now();
      const double cpu_start = CpuSeconds();
      for (auto& worker : workers) worker->Enqueue(table, algorithm);
      for (auto& worker : workers) worker->Finish();
      wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      cpu = CpuSeconds() - cpu_start;
    }
    std::printf("%.6f %.6f\n", wall, cpu);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  const int devices = argc == 2 ? std::atoi(argv[1]) : 0;
  if (devices < 1) {
    std::fprintf(stderr, "usage: %s DEVICES\n", argv[0]);
    return 2;
  }
  return muond::Main(devices);
}
