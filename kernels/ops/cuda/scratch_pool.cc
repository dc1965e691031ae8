#include "kernels/ops/cuda/scratch_pool.h"

#include "absl/strings/str_format.h"

namespace muond {

using elementwise::Scratch;

ScratchPool::~ScratchPool() {
  device_.MakeCurrent();
  absl::MutexLock lock(&mutex_);
  for (auto& [stream, scratch] : scratches_) (void)cudaFree(scratch);
}

Scratch* ScratchPool::Take(cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  const auto found = scratches_.find(stream);
  if (found == scratches_.end()) return nullptr;
  Scratch* const scratch = found->second;
  scratches_.erase(found);
  return scratch;
}

absl::StatusOr<Scratch*> ScratchPool::For(cudaStream_t stream) {
  absl::MutexLock lock(&mutex_);
  Scratch*& scratch = scratches_[stream];
  if (scratch != nullptr) return scratch;
  device_.MakeCurrent();
  // A capture elsewhere in the process forbids allocation unless this thread says that it knows.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  void* memory = nullptr;
  cudaStream_t clearing = nullptr;
  cudaError_t error = cudaMalloc(&memory, sizeof(Scratch));
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&clearing, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaMemsetAsync(memory, 0, sizeof(Scratch), clearing);
  if (error == cudaSuccess) error = cudaStreamSynchronize(clearing);
  if (clearing != nullptr) (void)cudaStreamDestroy(clearing);
  (void)cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) {
    if (memory != nullptr) (void)cudaFree(memory);
    return device_.Report(error, absl::StrFormat("%d bytes of launch scratch", sizeof(Scratch)));
  }
  scratch = static_cast<Scratch*>(memory);
  return scratch;
}

}  // namespace muond
