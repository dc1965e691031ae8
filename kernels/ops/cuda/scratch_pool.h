// ScratchPool: one Scratch for each stream, made when the stream is first used. A stream's launches run one after the
// other, so they share it. Threads: safe from any thread.
#pragma once

#include <cuda_runtime_api.h>

#include <map>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernels/ops/cuda/task_list.h"
#include "kernels/runtime/cuda/cuda_device.h"

namespace muond {

class ScratchPool {
 public:
  explicit ScratchPool(CudaDevice& device) : device_(device) {}
  ~ScratchPool();
  // Zeroed on the device before the call returns. Works while another stream is in capture.
  absl::StatusOr<elementwise::Scratch*> For(cudaStream_t stream);
  // The stream's scratch, now the caller's to cudaFree; null when it has none. The stream's next use makes another.
  elementwise::Scratch* Take(cudaStream_t stream);

 private:
  CudaDevice& device_;
  absl::Mutex mutex_;
  std::map<cudaStream_t, elementwise::Scratch*> scratches_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond
