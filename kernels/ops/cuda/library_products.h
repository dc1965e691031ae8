// LibraryProducts: Multiply through cuBLASLt, for GPUs without kernels of our own, and for checks.
//
// D = alpha op(A) op(B) + beta C, out of place, whole squares; a symmetric result is then mirrored from its lower triangle,
// so that D == D^T bit for bit, and diagonals of their own are summed apart and rounded once. Each product is a call of its
// own with the first algorithm that the library offers for its shape without split k: its bits do not depend on its
// neighbours. (Strided batches would need an algorithm of their own, and with it other bits; with the single product's,
// cuBLASLt 13.1 reads out of bounds on an H200.)
// Operands: A and B of one dtype, C and D of one dtype; 16-bit inputs accumulate in fp32, fp32 inputs in fp32 (no TF32).
// Threads: safe from any thread, one at a time per stream.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "kernels/ops/cuda/cublaslt.h"
#include "kernels/ops/cuda/task_list.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_stream.h"

namespace muond {

class LibraryProducts {
 public:
  // Opens nothing yet: a machine without cuBLASLt fails when it first multiplies.
  explicit LibraryProducts(CudaDevice& device);
  ~LibraryProducts();

  // Enqueues all of `products`. INVALID_ARGUMENT names operands that do not fit; UNAVAILABLE without the library.
  absl::Status Enqueue(CudaStream& stream, absl::Span<const Product> products,
                       elementwise::Scratch* scratch);

 private:
  struct Plan;
  using Key =
      std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, int, int, int>;

  absl::Status Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<const Plan*> PlanFor(const Product& product) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CudaDevice& device_;
  absl::Mutex
      mutex_;  // also held while products are issued: a batch's distances are set in its plan
  const CublasLt* library_ ABSL_GUARDED_BY(mutex_) = nullptr;
  cublasLtHandle_t handle_ ABSL_GUARDED_BY(mutex_) = nullptr;
  // Kept for good: as many as there are shapes.
  std::map<Key, std::unique_ptr<Plan>> plans_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace muond
