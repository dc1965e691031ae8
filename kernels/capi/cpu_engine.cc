#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/capi/engine.h"
#include "kernels/runtime/cell.h"

namespace muond {
namespace {

// Work is done in the caller's thread, at once: a call that ends with its work has nothing to gain from another thread.
class CallersStream final : public Stream {
 public:
  void Host(absl::AnyInvocable<void()> work) override {
    try {
      work();
    } catch (const std::exception& error) {
      if (health_.ok())
        health_ = absl::InternalError(absl::StrCat("work on the CPU threw: ", error.what()));
    }
  }
  void WaitCell(const Cell* cell, uint64_t at_least) override {
    while (!muond::WaitCell(cell, at_least, std::chrono::milliseconds(10))) continue;
  }
  void WriteCell(Cell* cell, uint64_t value) override { StoreCell(cell, value); }
  void Copy(void* destination, const void* source, size_t size_bytes) override {
    if (size_bytes != 0) std::memcpy(destination, source, size_bytes);
  }
  void Zero(void* destination, size_t size_bytes) override {
    if (size_bytes != 0) std::memset(destination, 0, size_bytes);
  }
  absl::Status Synchronize() override { return health_; }
  absl::Status health() const override { return health_; }

 private:
  absl::Status health_;
};

class CpuEngine final : public Engine {
 public:
  explicit CpuEngine(std::unique_ptr<Ops> ops) : ops_(std::move(ops)) {}
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Stream> StreamFor(void*) override { return std::make_unique<CallersStream>(); }
  void Put(Stream&, void* destination, const void* bytes, size_t size_bytes) override {
    std::memcpy(destination, bytes, size_bytes);
  }
  void Spread(Stream&, const SharedScalars& shared, const double* update_scales, size_t count,
              MuonScalars* out) override {
    MuonScalars values = shared.values;
    if (shared.lr_at != nullptr) values.lr = *shared.lr_at;
    if (shared.gradient_scale_at != nullptr) values.gradient_scale = *shared.gradient_scale_at;
    for (size_t i = 0; i < count; ++i) {
      values.update_scale = update_scales[i];
      out[i] = values;
    }
  }
  absl::Status Replay(Stream& stream, std::unique_ptr<Recording>&,
                      absl::FunctionRef<absl::Status(Stream&)> issue) override {
    return issue(stream);
  }
  absl::Status Finish(Stream& stream) override { return stream.Synchronize(); }

 private:
  std::unique_ptr<Ops> ops_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(int cuda_device) {
  if (cuda_device >= 0) return CreateCudaEngine(cuda_device);
  return std::make_unique<CpuEngine>(CreateCpuOps());
}

}  // namespace muond
