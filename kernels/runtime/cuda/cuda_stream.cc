#include "kernels/runtime/cuda/cuda_stream.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_error.h"
#include "kernels/runtime/cuda/driver.h"
#include "kernels/runtime/cuda/host_registry.h"

namespace muond {
namespace {

// `dropped` is set when the stream is destroyed before the call's turn has come.
struct HostCall {
  absl::AnyInvocable<void()> work;
  std::shared_ptr<std::atomic<bool>> dropped;
};

void CUDART_CB RunHostCall(void* data) {
  std::unique_ptr<HostCall> call(static_cast<HostCall*>(data));
  if (!call->dropped->load(std::memory_order_acquire)) call->work();
}

class StreamImpl final : public CudaStream {
 public:
  StreamImpl(CudaDevice& device, cudaStream_t stream, bool owned)
      : device_(device), stream_(stream), owned_(owned) {}

  ~StreamImpl() override {
    if (!owned_) return;
    device_.issue_thread().Flush();
    device_.MakeCurrent();
    Finish();
    (void)cudaStreamDestroy(stream_);
    (void)cudaGetLastError();
  }

  void Enqueue(const char* what, Call call) override {
    if (!owned_) {
      device_.MakeCurrent();
      Issue(what, call);
      return;
    }
    device_.issue_thread().Add(
        [this, what, call = std::move(call)]() mutable { Issue(what, call); });
  }

  void Fail(absl::Status status) override {
    if (status.ok()) return;
    absl::MutexLock lock(&mutex_);
    if (status_.ok()) status_ = std::move(status);
    failed_.store(true, std::memory_order_release);
  }

  cudaStream_t handle() const override { return stream_; }
  bool issues_at_once() const override { return !owned_; }

  void Host(absl::AnyInvocable<void()> work) override {
    Enqueue("host function",
            [work = std::move(work), dropped = dropped_](cudaStream_t stream) mutable {
              auto call = std::make_unique<HostCall>();
              call->work = std::move(work);
              call->dropped = dropped;
              const cudaError_t error = cudaLaunchHostFunc(stream, RunHostCall, call.get());
              if (error == cudaSuccess) call.release();
              return error;
            });
  }

  void WaitCell(const Cell* cell, uint64_t at_least) override {
    OnCell("wait for a cell", cell, at_least, /*write=*/false);
  }
  void WriteCell(Cell* cell, uint64_t value) override {
    OnCell("write of a cell", cell, value, /*write=*/true);
  }

  void Copy(void* destination, const void* source, size_t size_bytes) override {
    if (size_bytes == 0) return;
    Enqueue("copy", [=](cudaStream_t stream) {
      return cudaMemcpyAsync(destination, source, size_bytes, cudaMemcpyDefault, stream);
    });
  }

  void Zero(void* destination, size_t size_bytes) override {
    if (size_bytes == 0) return;
    Enqueue("zero", [=](cudaStream_t stream) {
      return cudaMemsetAsync(destination, 0, size_bytes, stream);
    });
  }

  absl::Status Synchronize() override {
    if (owned_) device_.issue_thread().Flush();
    device_.MakeCurrent();
    Report(cudaStreamSynchronize(stream_), "work on the stream");
    return Recorded();
  }

  absl::Status health() const override {
    if (absl::Status recorded = Recorded(); !recorded.ok() || !owned_) return recorded;
    const cudaError_t error = cudaStreamQuery(stream_);
    if (error == cudaErrorNotReady) {
      (void)cudaGetLastError();
    } else {
      const_cast<StreamImpl*>(this)->Report(error, "work on the stream");
    }
    return Recorded();
  }

 private:
  void Issue(const char* what, Call& call) {
    if (failed_.load(std::memory_order_acquire)) return;
    if (absl::Status poison = device_.poison(); !poison.ok()) return Fail(std::move(poison));
    Report(call(stream_), what);
  }

  void Report(cudaError_t error, absl::string_view what) {
    if (error != cudaSuccess) Fail(device_.Report(error, what));
  }

  absl::Status Recorded() const {
    {
      absl::MutexLock lock(&mutex_);
      if (!status_.ok()) return status_;
    }
    return device_.poison();
  }

  void RemoveSatisfied() {
    auto satisfied = [](const Wait& wait) {
      return wait.cell->load(std::memory_order_acquire) >= wait.at_least;
    };
    waits_.erase(std::remove_if(waits_.begin(), waits_.end(), satisfied), waits_.end());
  }

  // Waits for the work unless it stands behind a cell that has not come: such work stays in the hardware queue, where
  // nothing can take it away, but its host functions will not run any more.
  void Finish() {
    while (cudaStreamQuery(stream_) == cudaErrorNotReady) {
      RemoveSatisfied();
      if (!waits_.empty()) {
        dropped_->store(true, std::memory_order_release);
        return;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  void OnCell(const char* what, const Cell* cell, uint64_t value, bool write) {
    absl::StatusOr<void*> mapped = DevicePointerOf(cell, sizeof(Cell));
    if (!mapped.ok()) return Fail(mapped.status());
    const Driver& driver = device_.driver();
    const CUdeviceptr address = reinterpret_cast<CUdeviceptr>(*mapped);
    if (!write && owned_) {
      RemoveSatisfied();
      waits_.push_back({cell, value});
    }
    Enqueue(what, [&driver, address, value, write](cudaStream_t stream) {
      return ToRuntimeError(
          write ? driver.stream_write(stream, address, value, CU_STREAM_WRITE_VALUE_DEFAULT)
                : driver.stream_wait(stream, address, value, CU_STREAM_WAIT_VALUE_GEQ));
    });
  }

  CudaDevice& device_;
  const cudaStream_t stream_;
  const bool owned_;
  std::atomic<bool> failed_{false};
  struct Wait {
    const Cell* cell;
    uint64_t at_least;
  };
  std::vector<Wait> waits_;  // enqueued and not yet seen to be satisfied
  const std::shared_ptr<std::atomic<bool>> dropped_ = std::make_shared<std::atomic<bool>>(false);
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> CreateOwnedStream(CudaDevice& device) {
  if (absl::Status poison = device.poison(); !poison.ok()) return poison;
  device.MakeCurrent();
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return device.Report(error, "creating a stream");
  return std::make_unique<StreamImpl>(device, stream, /*owned=*/true);
}

std::unique_ptr<Stream> BorrowStream(CudaDevice& device, cudaStream_t stream) {
  return std::make_unique<StreamImpl>(device, stream, /*owned=*/false);
}

}  // namespace muond
