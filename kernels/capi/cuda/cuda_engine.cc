#include <cuda_runtime_api.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/capi/engine.h"
#include "kernels/ops/cuda/cuda_ops.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {
namespace {

// A graph and what it points into.
class GraphRecording final : public Recording {
 public:
  GraphRecording(CudaDevice& device, Ops& ops, cudaStream_t stream)
      : device_(device), ops_(ops), stream_(stream) {}

  ~GraphRecording() override {
    device_.MakeCurrent();
    // A capture elsewhere in the process forbids waiting unless this thread says that it knows.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    (void)cudaThreadExchangeStreamCaptureMode(&mode);
    (void)cudaDeviceSynchronize();  // its last run may be under way
    if (graph_ != nullptr) (void)cudaGraphExecDestroy(graph_);
    kept_ = nullptr;
    (void)cudaStreamDestroy(stream_);
    (void)cudaThreadExchangeStreamCaptureMode(&mode);
  }

  // Captures what `issue` enqueues. The graph is a whole or there is none.
  absl::Status Capture(absl::FunctionRef<absl::Status(Stream&)> issue) {
    cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed);
    if (error != cudaSuccess) return device_.Report(error, "beginning a capture");
    const std::unique_ptr<Stream> stream = BorrowStream(device_, stream_);
    absl::Status status = issue(*stream);
    if (status.ok()) status = stream->health();
    cudaGraph_t graph = nullptr;
    error = cudaStreamEndCapture(stream_, &graph);
    kept_ = TakeCaptured(ops_, stream_);
    if (status.ok() && error != cudaSuccess) status = device_.Report(error, "ending a capture");
    if (status.ok()) {
      error = cudaGraphInstantiate(&graph_, graph, 0);
      if (error != cudaSuccess) status = device_.Report(error, "making a graph");
    }
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    return status;
  }

  cudaGraphExec_t graph() const { return graph_; }

 private:
  CudaDevice& device_;
  Ops& ops_;
  const cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
  std::shared_ptr<void> kept_;
};

class CudaEngine final : public Engine {
 public:
  CudaEngine(std::unique_ptr<CudaDevice> device, std::unique_ptr<Ops> ops)
      : device_(std::move(device)), ops_(std::move(ops)) {}
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Stream> StreamFor(void* cuda_stream) override {
    return BorrowStream(*device_, static_cast<cudaStream_t>(cuda_stream));
  }
  void Put(Stream& stream, void* destination, const void* bytes, size_t size_bytes) override {
    PutBytes(stream, destination, bytes, size_bytes);
  }
  void Spread(Stream& stream, const SharedScalars& shared, const double* update_scales,
              size_t count, MuonScalars* out) override {
    SpreadScalars(stream, shared.values, shared.lr_at, shared.gradient_scale_at, update_scales,
                  static_cast<int64_t>(count), out);
  }
  absl::Status Replay(Stream& stream, std::unique_ptr<Recording>& recording,
                      absl::FunctionRef<absl::Status(Stream&)> issue) override {
    auto& cuda = static_cast<CudaStream&>(stream);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cuda.Enqueue("asking for a capture",
                 [&](cudaStream_t s) { return cudaStreamIsCapturing(s, &capture); });
    if (capture != cudaStreamCaptureStatusNone) return issue(stream);
    if (recording == nullptr) {
      cudaStream_t own = nullptr;
      device_->MakeCurrent();
      const cudaError_t error = cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking);
      if (error != cudaSuccess) return device_->Report(error, "creating a stream");
      auto made = std::make_unique<GraphRecording>(*device_, *ops_, own);
      if (absl::Status status = made->Capture(issue); !status.ok()) return status;
      recording = std::move(made);
    }
    const cudaGraphExec_t graph = static_cast<const GraphRecording&>(*recording).graph();
    cuda.Enqueue("a graph", [graph](cudaStream_t s) { return cudaGraphLaunch(graph, s); });
    return absl::OkStatus();
  }
  absl::Status Finish(Stream& stream) override { return stream.health(); }

 private:
  std::unique_ptr<CudaDevice> device_;
  std::unique_ptr<Ops> ops_;
};

}  // namespace

// Only the device asked for gets a context: a process of a job with eight GPUs must not open eight.
absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(int cuda_device) {
  int current = 0;
  const bool restore = cudaGetDevice(&current) == cudaSuccess;
  auto device = CudaDevice::Create(cuda_device, 0, {});
  if (!device.ok()) {
    (void)cudaGetLastError();
    return absl::UnavailableError(device.status().message());
  }
  absl::StatusOr<CudaOpsOptions> options = CudaOpsOptionsFromEnvironment();
  if (!options.ok()) return options.status();
  absl::StatusOr<std::unique_ptr<Ops>> ops = CreateCudaOpsWith(**device, *options);
  if (!ops.ok()) return ops.status();
  if (restore) (void)cudaSetDevice(current);
  return std::make_unique<CudaEngine>(*std::move(device), *std::move(ops));
}

}  // namespace muond
