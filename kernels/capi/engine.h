// Engine: one device with its verbs, driven on a caller's CUDA stream or, on the CPU, to the end of each call.
#pragma once

#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/ops.h"
#include "kernels/optim/muon.h"
#include "kernels/runtime/backend.h"

namespace muond {

// Scalars that all matrices of a call share. `lr_at` and `gradient_scale_at`: device memory that holds the values to use
// instead when the work runs, or null.
struct SharedScalars {
  MuonScalars values;
  const float* lr_at = nullptr;
  const float* gradient_scale_at = nullptr;
};

// Work that was enqueued once and can be again, with the same pointers. Destroying one waits for its runs.
class Recording {
 public:
  virtual ~Recording() = default;
};

class Engine {
 public:
  // `cuda_device` -1: the CPU. UNAVAILABLE with the reason where the device cannot be used.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(int cuda_device);
  virtual ~Engine() = default;

  virtual Ops& ops() = 0;
  // A stream for one call: it issues on `cuda_stream` (ignored on the CPU).
  virtual std::unique_ptr<Stream> StreamFor(void* cuda_stream) = 0;
  // Host values where the device reads them when the work runs.
  virtual void Put(Stream& stream, void* destination, const void* bytes, size_t size_bytes) = 0;
  // out[i] = the shared scalars with update_scales[i], which Put has brought where it lies.
  virtual void Spread(Stream& stream, const SharedScalars& shared, const double* update_scales,
                      size_t count, MuonScalars* out) = 0;
  // Enqueues what `issue` enqueues on the stream it is given, which must be the same every time. CUDA: captured on the first
  // call, a graph launch from then on; as it is while the caller's stream is in capture itself.
  virtual absl::Status Replay(Stream& stream, std::unique_ptr<Recording>& recording,
                              absl::FunctionRef<absl::Status(Stream&)> issue) = 0;
  // CUDA: how the calls went so far. CPU: waits for the work.
  virtual absl::Status Finish(Stream& stream) = 0;
};

// Where there is no CUDA: UNAVAILABLE.
absl::StatusOr<std::unique_ptr<Engine>> CreateCudaEngine(int cuda_device);

// x[i] <- the orthogonalised x[i], for a list, in rounds that fit `workspace`.
struct OrthogonalizeItem {
  Matrix in, out;
};
uint64_t OrthogonalizeWorkspaceBytes(const Ops& ops, absl::Span<const OrthogonalizeItem> items,
                                     const CoefficientTable& table, uint64_t limit_bytes);
// `scalars` holds eps (and gradient_scale 1); read when it runs. INVALID_ARGUMENT when the largest matrix does not fit.
absl::Status Orthogonalize(Ops& ops, Stream& stream, absl::Span<const OrthogonalizeItem> items,
                           const CoefficientTable& table, const MuonScalars* scalars,
                           void* workspace, uint64_t bytes);

}  // namespace muond
