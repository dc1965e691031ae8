#include "kernels/ops/cuda/cuda_ops.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "kernels/ops/cuda/library_products.h"
#include "kernels/ops/cuda/list_builder.h"
#include "kernels/ops/cuda/passes.h"
#include "kernels/ops/cuda/products.h"
#include "kernels/ops/cuda/scratch_pool.h"
#include "kernels/runtime/cuda/cuda_stream.h"
#include "kernels/runtime/cuda/host_registry.h"

namespace muond {
namespace {

using elementwise::AdamWItem;
using elementwise::ApplyItem;
using elementwise::DirectionItem;
using elementwise::DirectionPhase;
using elementwise::ExtentOf;
using elementwise::kScratchTasks;
using elementwise::kScratchTiles;
using elementwise::Launch;
using elementwise::ListBuilder;
using elementwise::MeasureItem;
using elementwise::MeasurePhase;
using elementwise::Plane;
using elementwise::PlaneOf;
using elementwise::ScatterItem;
using elementwise::Scratch;
using elementwise::SourceRange;
using elementwise::SourcesOf;
using elementwise::SourceSpec;
using elementwise::TilesOf;

template <class T>
absl::Status Reach(T*& pointer) {
  if (pointer == nullptr) return absl::OkStatus();
  absl::StatusOr<void*> device = DevicePointerOf(pointer, sizeof(T));
  if (!device.ok()) return device.status();
  pointer = static_cast<T*>(*device);
  return absl::OkStatus();
}

// Gradients may lie behind addresses that are read when the work runs.
absl::StatusOr<std::vector<SourceSpec>> GradientsOf(absl::Span<const Block> blocks, int64_t rows,
                                                    int64_t cols) {
  absl::StatusOr<std::vector<SourceSpec>> sources = SourcesOf(blocks, rows, cols);
  if (!sources.ok()) return sources;
  for (SourceSpec& spec : *sources) {
    if (absl::Status status = Reach(spec.source.base); !status.ok()) return status;
  }
  return sources;
}

bool IsPlain(absl::Span<const SourceSpec> sources) {
  for (const SourceSpec& spec : sources) {
    if (!spec.source.is_flat || !spec.source.aligned || spec.replica != sources[0].replica)
      return false;
  }
  return true;
}
bool IsPlain(const Plane& plane) { return plane.is_flat && plane.aligned; }

bool AlignedTo16(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0) return false;
  }
  return true;
}

class CudaOps final : public Ops {
 public:
  // `hopper` is null where its kernels do not run or are not wanted.
  CudaOps(CudaDevice& device, std::unique_ptr<GroupedProducts> hopper)
      : device_(device),
        scratch_(device),
        library_(std::make_unique<LibraryProducts>(device)),
        hopper_(std::move(hopper)) {}

  DType iterate_dtype() const override { return DType::kFloat16; }

  void Measure(Stream& stream, absl::Span<const MeasureTask> tasks) override {
    const int multiprocessors = device_.multiprocessors();
    ForBatches<MeasureItem>(
        stream, tasks, [](const MeasureTask& task) { return task.rows * task.cols; },
        [](const MeasureTask& task, int slot, int,
           ListBuilder<MeasureItem>& builder) -> absl::Status {
          absl::StatusOr<std::vector<SourceSpec>> sources =
              GradientsOf(task.blocks, task.rows, task.cols);
          if (!sources.ok()) return sources.status();
          Measurement* result = task.result;
          if (absl::Status status = Reach(result); !status.ok()) return status;
          MeasureItem item = {.extent = ExtentOf(task.rows, task.cols),
                              .source = {},
                              .want_norm = task.want_norm,
                              .slot = slot,
                              .windows = result->sum_of_squares.windows.data(),
                              .non_finite = &result->non_finite};
          return builder.Add(item, TilesOf(task.rows * task.cols), {&*sources, 1},
                             {&kMeasureRange, 1});
        },
        [multiprocessors](cudaStream_t s, const auto& list, int tiles, Scratch* scratch,
                          int phase) {
          return elementwise::LaunchMeasure(s, list, tiles, scratch,
                                            static_cast<MeasurePhase>(phase), multiprocessors);
        },
        /*phases=*/2);
    // A matrix without elements has a result too.
    for (const MeasureTask& task : tasks) {
      if (task.rows * task.cols != 0) continue;
      Measurement* result = task.result;
      if (absl::Status status = Reach(result); !status.ok()) return Cuda(stream).Fail(status);
      stream.Zero(result, sizeof(*result));
    }
  }

  void Direction(Stream& stream, absl::Span<const DirectionTask> tasks) override {
    bool halves = false;
    for (const DirectionTask& task : tasks) halves |= task.direction.dtype == DType::kFloat16;
    const int multiprocessors = device_.multiprocessors();
    ForBatches<DirectionItem>(
        stream, tasks, [](const DirectionTask& task) { return task.rows * task.cols; },
        [](const DirectionTask& task, int slot, int first_sum,
           ListBuilder<DirectionItem>& builder) -> absl::Status {
          absl::StatusOr<std::vector<SourceSpec>> sources =
              GradientsOf(task.gradient, task.rows, task.cols);
          if (!sources.ok()) return sources.status();
          DirectionItem item = {.extent = ExtentOf(task.rows, task.cols),
                                .gradient = {},
                                .state_aligned = AlignedTo16({task.momentum_in, task.momentum_out}),
                                .plain = false,
                                .slot = slot,
                                .first_sum = first_sum,
                                .tiles = TilesOf(task.rows * task.cols),
                                .momentum_in = task.momentum_in,
                                .momentum_out = task.momentum_out,
                                .direction = PlaneOf(task.direction),
                                .norm = task.direction_norm,
                                .scalars = task.scalars};
          item.plain = item.state_aligned && IsPlain(*sources) && IsPlain(item.direction);
          if (absl::Status status = Reach(item.scalars); !status.ok()) return status;
          return builder.Add(item, item.tiles, {&*sources, 1}, {&kGradientRange, 1});
        },
        [halves, multiprocessors](cudaStream_t s, const auto& list, int tiles, Scratch* scratch,
                                  int phase) {
          const auto which = static_cast<DirectionPhase>(phase);
          if (!halves && which == DirectionPhase::kCorrect) return cudaSuccess;
          return elementwise::LaunchDirection(s, list, tiles, scratch, which, multiprocessors);
        },
        /*phases=*/4);
  }

  void Multiply(Stream& stream, absl::Span<const Product> products) override {
    const size_t end = products.size();
    MultiplyPhases(stream, products, {&end, 1});
  }

  void MultiplyPhases(Stream& stream, absl::Span<const Product> products,
                      absl::Span<const size_t> phase_ends) override {
    if (products.empty()) return;
    CudaStream& cuda = Cuda(stream);
    // Divisors may lie in host slabs. A pinned host page has one address for host and device.
    for (const Product& product : products) {
      if (product.alpha_divisor == nullptr) continue;
      const double* divisor = product.alpha_divisor;
      absl::Status status = Reach(divisor);
      if (status.ok() && divisor != product.alpha_divisor) {
        status = absl::UnimplementedError("a divisor in host memory with another device address");
      }
      if (!status.ok()) return cuda.Fail(std::move(status));
    }
    if (TakenByHopper(products)) return RunOnHopper(cuda, products, phase_ends);
    absl::StatusOr<Scratch*> scratch = scratch_.For(cuda.handle());
    if (!scratch.ok()) return cuda.Fail(scratch.status());
    size_t begin = 0;
    for (const size_t end : phase_ends) {
      const absl::Status status =
          library_->Enqueue(cuda, products.subspan(begin, end - begin), *scratch);
      if (!status.ok()) return cuda.Fail(status);
      begin = end;
    }
  }

  void Apply(Stream& stream, absl::Span<const ApplyTask> tasks) override {
    ForBatches<ApplyItem>(
        stream, tasks, [](const ApplyTask& task) { return task.rows * task.cols; },
        [](const ApplyTask& task, int, int, ListBuilder<ApplyItem>& builder) -> absl::Status {
          absl::StatusOr<std::vector<SourceSpec>> sources =
              Parameters(task.parameter_in, task.rows, task.cols);
          if (!sources.ok()) return sources.status();
          ApplyItem item = {.extent = ExtentOf(task.rows, task.cols),
                            .parameter = {},
                            .plain = false,
                            .out = PlaneOf(task.parameter_out),
                            .update = PlaneOf(task.update),
                            .scalars = task.scalars};
          item.plain = IsPlain(*sources) && IsPlain(item.out) && IsPlain(item.update);
          if (absl::Status status = Reach(item.scalars); !status.ok()) return status;
          return builder.Add(item, TilesOf(task.rows * task.cols), {&*sources, 1},
                             {&kParameterRange, 1});
        },
        [](cudaStream_t s, const auto& list, int tiles, Scratch*, int) {
          return elementwise::LaunchApply(s, list, tiles);
        });
  }

  void AdamW(Stream& stream, absl::Span<const AdamWTask> tasks) override {
    ForBatches<AdamWItem>(
        stream, tasks, [](const AdamWTask& task) { return task.rows * task.cols; },
        [](const AdamWTask& task, int slot, int, ListBuilder<AdamWItem>& builder) -> absl::Status {
          std::vector<SourceSpec> sources[2];
          absl::StatusOr<std::vector<SourceSpec>> found =
              GradientsOf(task.gradient, task.rows, task.cols);
          if (!found.ok()) return found.status();
          if (task.present) sources[0] = *std::move(found);
          found = Parameters(task.parameter_in, task.rows, task.cols);
          if (!found.ok()) return found.status();
          sources[1] = *std::move(found);
          AdamWItem item = {.extent = ExtentOf(task.rows, task.cols),
                            .gradient = {},
                            .parameter = {},
                            .present = task.present,
                            .state_aligned = AlignedTo16({task.exp_avg_in, task.exp_avg_out,
                                                          task.exp_avg_sq_in, task.exp_avg_sq_out}),
                            .plain = false,
                            .slot = slot,
                            .tiles = TilesOf(task.rows * task.cols),
                            .out = PlaneOf(task.parameter_out),
                            .exp_avg_in = task.exp_avg_in,
                            .exp_avg_sq_in = task.exp_avg_sq_in,
                            .exp_avg_out = task.exp_avg_out,
                            .exp_avg_sq_out = task.exp_avg_sq_out,
                            .step_in = task.step_in,
                            .step_out = task.step_out,
                            .scalars = task.scalars};
          item.plain =
              item.state_aligned && IsPlain(sources[0]) && IsPlain(sources[1]) && IsPlain(item.out);
          absl::Status status = Reach(item.scalars);
          if (status.ok()) status = Reach(item.step_in);
          if (status.ok()) status = Reach(item.step_out);
          return status.ok() ? builder.Add(item, item.tiles, sources, kAdamWRanges) : status;
        },
        [](cudaStream_t s, const auto& list, int tiles, Scratch* scratch, int) {
          return elementwise::LaunchAdamW(s, list, tiles, scratch);
        });
  }

  void Scatter(Stream& stream, absl::Span<const ScatterTask> tasks) override {
    struct Part {
      Matrix from, to;
    };
    std::vector<Part> parts;
    for (const ScatterTask& task : tasks) {
      const Matrix& source = task.source;
      for (const Block& block : task.destinations) {
        const int64_t rows = std::min(block.rows, source.rows - block.row);
        const int64_t cols = std::min(block.cols, source.cols - block.col);
        if (rows <= 0 || cols <= 0) continue;
        if (block.row < 0 || block.col < 0) {
          return Cuda(stream).Fail(absl::InvalidArgumentError(
              absl::StrFormat("scatter to (%d, %d)", block.row, block.col)));
        }
        char* const from =
            static_cast<char*>(source.data) +
            (block.row * source.ld + block.col) * static_cast<int64_t>(SizeOf(source.dtype));
        parts.push_back({{from, rows, cols, source.ld, source.dtype},
                         {block.data, rows, cols, block.ld, block.dtype}});
      }
    }
    ForBatches<ScatterItem>(
        stream, absl::MakeConstSpan(parts),
        [](const Part& part) { return part.to.rows * part.to.cols; },
        [](const Part& part, int, int, ListBuilder<ScatterItem>& builder) -> absl::Status {
          const ScatterItem item = {.extent = ExtentOf(part.to.rows, part.to.cols),
                                    .from = PlaneOf(part.from),
                                    .to = PlaneOf(part.to)};
          return builder.Add(item, TilesOf(item.extent.elements), {}, {});
        },
        [](cudaStream_t s, const auto& list, int tiles, Scratch*, int) {
          return elementwise::LaunchScatter(s, list, tiles);
        });
  }

  std::shared_ptr<void> TakeCapturedOn(cudaStream_t stream) {
    struct Captured {
      std::vector<std::unique_ptr<GroupedProducts::Program>> programs;
      Scratch* scratch = nullptr;
      ~Captured() { (void)cudaFree(scratch); }
    };
    auto captured = std::make_shared<Captured>();
    captured->scratch = scratch_.Take(stream);
    absl::MutexLock lock(&mutex_);
    for (auto& [of, program] : captured_) {
      if (of == stream) captured->programs.push_back(std::move(program));
    }
    captured_.erase(std::remove_if(captured_.begin(), captured_.end(),
                                   [](const auto& entry) { return entry.second == nullptr; }),
                    captured_.end());
    return captured;
  }

  void Flip(Stream& stream, const FlipTask& task) override {
    FlipTask reached = task;
    absl::Status status = Reach(reached.word);
    if (status.ok()) status = Reach(reached.mark);
    if (!status.ok()) return Cuda(stream).Fail(std::move(status));
    Cuda(stream).Enqueue("flip", [reached](cudaStream_t s) {
      return elementwise::LaunchFlip(s, reinterpret_cast<uint64_t*>(reached.word), reached.value,
                                     reinterpret_cast<const uint64_t*>(reached.mark));
    });
  }

 private:
  static constexpr SourceRange MeasureItem::*kMeasureRange = &MeasureItem::source;
  static constexpr SourceRange DirectionItem::*kGradientRange = &DirectionItem::gradient;
  static constexpr SourceRange ApplyItem::*kParameterRange = &ApplyItem::parameter;
  static constexpr SourceRange AdamWItem::*kAdamWRanges[2] = {&AdamWItem::gradient,
                                                              &AdamWItem::parameter};

  static CudaStream& Cuda(Stream& stream) { return static_cast<CudaStream&>(stream); }

  bool TakenByHopper(absl::Span<const Product> products) const {
    if (hopper_ == nullptr) return false;
    for (const Product& product : products) {
      if (product.d.dtype != products[0].d.dtype || !hopper_->Check(product).ok()) return false;
    }
    return true;
  }

  void RunOnHopper(CudaStream& cuda, absl::Span<const Product> products,
                   absl::Span<const size_t> phase_ends) {
    if (cuda.issues_at_once()) {
      cuda.Enqueue("grouped products",
                   [&](cudaStream_t s) { return IssueOnHopper(cuda, s, products, phase_ends); });
      return;
    }
    cuda.Enqueue("grouped products",
                 [this, &cuda, products = std::vector<Product>(products.begin(), products.end()),
                  phase_ends = std::vector<size_t>(phase_ends.begin(), phase_ends.end())](
                     cudaStream_t s) { return IssueOnHopper(cuda, s, products, phase_ends); });
  }

  // A captured stream gets a program of its own, which stays as long as these ops: graphs hold pointers into it.
  cudaError_t IssueOnHopper(CudaStream& cuda, cudaStream_t s, absl::Span<const Product> products,
                            absl::Span<const size_t> phase_ends) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (const cudaError_t error = cudaStreamIsCapturing(s, &capture); error != cudaSuccess)
      return error;
    absl::Status status;
    if (capture == cudaStreamCaptureStatusNone) {
      status = hopper_->Run(s, products, phase_ends);
    } else {
      cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
      (void)cudaThreadExchangeStreamCaptureMode(&mode);
      auto program = hopper_->Compile(products, phase_ends);
      (void)cudaThreadExchangeStreamCaptureMode(&mode);
      status = program.ok() ? hopper_->Launch(s, **program) : program.status();
      if (status.ok()) {
        absl::MutexLock lock(&mutex_);
        captured_.emplace_back(s, *std::move(program));
      }
    }
    cuda.Fail(std::move(status));
    return cudaSuccess;
  }

  // A parameter has no replicas: the index means nothing there.
  static absl::StatusOr<std::vector<SourceSpec>> Parameters(absl::Span<const Block> blocks,
                                                            int64_t rows, int64_t cols) {
    absl::StatusOr<std::vector<SourceSpec>> sources = SourcesOf(blocks, rows, cols);
    if (sources.ok()) {
      for (SourceSpec& spec : *sources) spec.replica = 0;
    }
    return sources;
  }

  // Cuts `tasks` into batches that the scratch has room for, and enqueues `phases` passes over each batch's launches.
  template <class Item, class Task, class Count, class Add, class Run>
  void ForBatches(Stream& stream, absl::Span<const Task> tasks, Count elements, Add add, Run run,
                  int phases = 1) {
    CudaStream& cuda = Cuda(stream);
    absl::StatusOr<Scratch*> scratch = scratch_.For(cuda.handle());
    if (!scratch.ok()) return cuda.Fail(scratch.status());
    std::vector<std::vector<Launch>> batches;
    ListBuilder<Item> builder;
    int slot = 0;
    int64_t tiles = 0;
    auto flush = [&] {
      if (slot > 0) batches.push_back(builder.Take());
      builder = ListBuilder<Item>();
      slot = 0;
      tiles = 0;
    };
    for (const Task& task : tasks) {
      const int64_t more =
          (elements(task) + elementwise::kTileElements - 1) / elementwise::kTileElements;
      if (more == 0) continue;
      if (more > kScratchTiles) {
        return cuda.Fail(absl::ResourceExhaustedError(
            absl::StrFormat("a tensor of %d elements; %d is the limit", elements(task),
                            int64_t{kScratchTiles} * elementwise::kTileElements)));
      }
      if (slot == kScratchTasks || tiles + more > kScratchTiles) flush();
      if (absl::Status status = add(task, slot, static_cast<int>(tiles), builder); !status.ok()) {
        return cuda.Fail(std::move(status));
      }
      ++slot;
      tiles += more;
    }
    flush();
    if (batches.empty()) return;
    cuda.Enqueue("an element-wise pass", [=, batches = std::move(batches),
                                          scratch = *scratch](cudaStream_t s) {
      for (const std::vector<Launch>& batch : batches) {
        for (int phase = 0; phase < phases; ++phase) {
          for (const Launch& launch : batch) {
            const cudaError_t error = elementwise::WithList(launch, [&](const auto& list) {
              return run(s, list, launch.tiles, scratch, phase);
            });
            if (error != cudaSuccess) return error;
          }
        }
      }
      return cudaSuccess;
    });
  }

  CudaDevice& device_;
  ScratchPool scratch_;
  const std::unique_ptr<LibraryProducts> library_;
  const std::unique_ptr<GroupedProducts> hopper_;
  absl::Mutex mutex_;
  std::vector<std::pair<cudaStream_t, std::unique_ptr<GroupedProducts::Program>>> captured_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOpsWith(CudaDevice& device,
                                                       const CudaOpsOptions& options) {
  std::unique_ptr<GroupedProducts> hopper;
  if (options.products == ProductPath::kAuto && device.compute_capability() == 90) {
    device.MakeCurrent();
    absl::StatusOr<std::unique_ptr<GroupedProducts>> made = GroupedProducts::Create();
    if (!made.ok()) return made.status();
    hopper = *std::move(made);
  }
  return std::make_unique<CudaOps>(device, std::move(hopper));
}

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(Device& device) {
  auto* const cuda = dynamic_cast<CudaDevice*>(&device);
  if (cuda == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("device %s is no CUDA device", device.info().uuid));
  }
  absl::StatusOr<CudaOpsOptions> options = CudaOpsOptionsFromEnvironment();
  if (!options.ok()) return options.status();
  return CreateCudaOpsWith(*cuda, *options);
}

void PutBytes(Stream& stream, void* destination, const void* bytes, size_t size_bytes) {
  const char* from = static_cast<const char*>(bytes);
  char* to = static_cast<char*>(destination);
  while (size_bytes > 0) {
    const size_t piece = std::min<size_t>(size_bytes, elementwise::kLargeListBytes);
    static_cast<CudaStream&>(stream).Enqueue(
        "put", [to, held = std::vector<char>(from, from + piece)](cudaStream_t s) {
          return elementwise::LaunchPut(s, to, held.data(), static_cast<int>(held.size()));
        });
    from += piece;
    to += piece;
    size_bytes -= piece;
  }
}

void SpreadScalars(Stream& stream, const MuonScalars& shared, const float* lr,
                   const float* gradient_scale, const double* update_scales, int64_t count,
                   MuonScalars* out) {
  static_cast<CudaStream&>(stream).Enqueue("scalars", [=](cudaStream_t s) {
    return elementwise::LaunchSpreadScalars(s, shared, lr, gradient_scale, update_scales, count,
                                            out);
  });
}

std::shared_ptr<void> TakeCaptured(Ops& cuda_ops, cudaStream_t stream) {
  return static_cast<CudaOps&>(cuda_ops).TakeCapturedOn(stream);
}

}  // namespace muond
