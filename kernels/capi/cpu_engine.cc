#include <cstring>
#include <utility>

#include "kernels/capi/engine.h"

namespace muond {
namespace {

class CpuEngine final : public Engine {
 public:
  CpuEngine(std::unique_ptr<Backend> backend, std::unique_ptr<Ops> ops)
      : backend_(std::move(backend)), ops_(std::move(ops)) {}
  Ops& ops() override { return *ops_; }
  std::unique_ptr<Stream> StreamFor(void*) override {
    auto stream = backend_->devices()[0]->CreateStream();
    return stream.ok() ? *std::move(stream) : nullptr;
  }
  // Nothing has been enqueued yet when this is called.
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
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Ops> ops_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(int cuda_device) {
  if (cuda_device >= 0) return CreateCudaEngine(cuda_device);
  auto backend = CreateCpuBackend({});
  if (!backend.ok()) return backend.status();
  return std::make_unique<CpuEngine>(*std::move(backend), CreateCpuOps());
}

}  // namespace muond
