// The echo: a client without a daemon, for testing bindings. See CreateEcho in client.h.
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/core/client.h"
#include "client/core/digest.h"
#include "client/core/step_book.h"

namespace muond {
namespace {

constexpr uint64_t kAlignment = 64;

class EchoClient : public Client {
 public:
  EchoClient(const Manifest& manifest, const RankManifest& rank, std::vector<ShardInSlab> places,
             std::shared_ptr<Mapping> gradients, std::shared_ptr<Mapping> parameters)
      : manifest_(manifest),
        rank_(rank),
        places_(std::move(places)),
        gradients_(std::move(gradients)),
        parameters_(std::move(parameters)),
        book_(manifest_, rank_, places_) {
    info_.job = DigestOf(manifest_) | 1;
    info_.session = 1;
    info_.epoch = 1;
    info_.incarnation = 1;
    info_.items = static_cast<int32_t>(manifest_.tensors.size());
  }

  const ClientInfo& info() const override { return info_; }
  const Manifest& manifest() const override { return manifest_; }
  const std::vector<ShardInSlab>& places() const override { return places_; }
  std::shared_ptr<Mapping> gradient_slab() const override { return gradients_; }
  std::shared_ptr<Mapping> parameter_slab() const override { return parameters_; }

  absl::Status Put(int32_t shard, const void* data, uint64_t size_bytes) override {
    if (absl::Status may = book_.MayPut(shard, size_bytes); !may.ok()) return may;
    char* to = gradients_->data() + places_[shard].gradient_offset;
    book_.DidPut(shard,
                 data == to ? Digest(data, size_bytes) : CopyAndDigest(to, data, size_bytes));
    return absl::OkStatus();
  }

  absl::Status Placed(absl::Span<const int32_t> shards) override {
    for (int32_t shard : shards) {
      const bool known = shard >= 0 && static_cast<size_t>(shard) < places_.size();
      const uint64_t size_bytes = known ? places_[shard].size_bytes : 0;
      if (absl::Status may = book_.MayPut(shard, size_bytes); !may.ok()) return may;
    }
    for (int32_t shard : shards) book_.DidPut(shard, 0);
    return absl::OkStatus();
  }
  absl::Status UseStream(StreamHandle) override {
    return absl::FailedPreconditionError("the echo has no stream");
  }
  absl::Status WaitOnStream() override { return UseStream(0); }

  absl::Status Announce(int32_t bucket) override {
    if (absl::Status may = book_.MayAnnounce(bucket); !may.ok()) return may;
    book_.DidAnnounce(bucket);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> Commit(const StepSettings& settings) override {
    if (absl::Status may = book_.MayCommit(settings); !may.ok()) return may;
    settings_ = settings;
    book_.DidCommit();
    return book_.step();
  }

  absl::StatusOr<StepResult> Wait(absl::Duration) override {
    if (absl::Status may = book_.MayWait(); !may.ok()) return may;
    StepResult result;
    result.step = book_.step();
    result.tensor = FirstNonFinite();
    if (settings_.found_inf) {
      result.reason = VoidReason::kFoundInf;
      result.text = absl::StrFormat("step %d is void: the loss scaler found Inf", result.step);
    } else if (result.tensor >= 0) {
      result.reason = VoidReason::kNonFinite;
      result.text = absl::StrFormat("step %d is void: the gradient of %s holds NaN or Inf",
                                    result.step, manifest_.tensors[result.tensor].name);
    } else {
      result.applied = true;
      Apply();
    }
    info_.last_step = result.step;
    book_.Begin(result.step + 1);
    return result;
  }

  absl::Status FetchState(int32_t tensor, StateField field, void* data,
                          uint64_t size_bytes) override {
    if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
    std::memset(data, 0, size_bytes);
    const auto found = state_.find({tensor, field});
    if (field == StateField::kParameter) {
      std::memcpy(data, parameters_->data() + places_[tensor].parameter_offset, size_bytes);
    } else if (found != state_.end()) {
      std::memcpy(data, found->second.data(), size_bytes);
    }
    return absl::OkStatus();
  }

  absl::Status PushState(int32_t tensor, StateField field, const void* data,
                         uint64_t size_bytes) override {
    if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
    if (field == StateField::kParameter) {
      return absl::InvalidArgumentError(
          "parameters are fetched, never pushed: write into the slab");
    }
    state_[{tensor, field}].assign(static_cast<const char*>(data), size_bytes);
    return absl::OkStatus();
  }

  // A rank's only block of a tensor is all of it here.
  absl::Status FetchShardState(int32_t shard, StateField field, void* data,
                               uint64_t size_bytes) override {
    absl::Status fits = CheckShardStateBytes(manifest_, rank_, shard, field, size_bytes);
    return fits.ok() ? FetchState(shard, field, data, size_bytes) : fits;
  }

  absl::Status PushShardState(int32_t shard, StateField field, const void* data,
                              uint64_t size_bytes) override {
    absl::Status fits = CheckShardStateBytes(manifest_, rank_, shard, field, size_bytes);
    return fits.ok() ? PushState(shard, field, data, size_bytes) : fits;
  }

  void KeepConnection(bool) override {}  // there is none
  absl::Status Detach() override { return absl::OkStatus(); }

 private:
  absl::Status CheckState(int32_t tensor, StateField field, uint64_t size_bytes) const {
    return CheckStateBytes(manifest_, tensor, field, size_bytes);
  }

  bool Present(int32_t tensor) const { return book_.present()[tensor / 64] >> (tensor % 64) & 1; }
  const float* Gradient(int32_t tensor) const {
    return reinterpret_cast<const float*>(gradients_->data() + places_[tensor].gradient_offset);
  }

  int32_t FirstNonFinite() const {
    for (size_t t = 0; t < manifest_.tensors.size(); ++t) {
      if (!Present(t)) continue;
      const float* gradient = Gradient(t);
      for (int64_t i = 0; i < ElementsOf(manifest_.tensors[t]); ++i) {
        if (!std::isfinite(gradient[i])) return static_cast<int32_t>(t);
      }
    }
    return -1;
  }

  void Apply() {
    for (size_t t = 0; t < manifest_.tensors.size(); ++t) {
      if (!Present(t)) continue;
      const TensorSpec& tensor = manifest_.tensors[t];
      const float factor =
          static_cast<float>(settings_.groups[tensor.group].lr / settings_.loss_scale);
      auto* parameter = reinterpret_cast<float*>(parameters_->data() + places_[t].parameter_offset);
      for (int64_t i = 0; i < ElementsOf(tensor); ++i) parameter[i] -= factor * Gradient(t)[i];
    }
  }

  const Manifest manifest_;
  const RankManifest rank_;
  const std::vector<ShardInSlab> places_;
  const std::shared_ptr<Mapping> gradients_, parameters_;
  StepBook book_;
  ClientInfo info_;
  StepSettings settings_;
  std::map<std::pair<int32_t, StateField>, std::string> state_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> CreateEcho(const Manifest& manifest,
                                                   const RankManifest& rank) {
  if (absl::Status valid = Validate(manifest); !valid.ok()) return valid;
  if (absl::Status valid = Validate(manifest, rank); !valid.ok()) return valid;
  if (manifest.world_size != 1 || rank.shards.size() != manifest.tensors.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the echo takes one rank with one whole block for each tensor, in order; "
                        "got %d ranks, %d blocks for %d tensors",
                        manifest.world_size, rank.shards.size(), manifest.tensors.size()));
  }
  std::vector<ShardInSlab> places;
  uint64_t end = 0;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    const TensorSpec& tensor = manifest.tensors[t];
    if (rank.shards[t].tensor != static_cast<int32_t>(t) ||
        ElementsOf(rank.shards[t]) != ElementsOf(tensor) ||
        tensor.parameter_type != DType::kFloat32 || tensor.gradient_type != DType::kFloat32) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the echo takes whole fp32 tensors in order; block %d is not that of %s",
                          t, tensor.name));
    }
    const uint64_t size_bytes = ElementsOf(tensor) * sizeof(float);
    places.push_back({size_bytes, end, end, true});
    end += (size_bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  absl::StatusOr<std::shared_ptr<Mapping>> gradients = Mapping::Private(end);
  if (!gradients.ok()) return gradients.status();
  absl::StatusOr<std::shared_ptr<Mapping>> parameters = Mapping::Private(end);
  if (!parameters.ok()) return parameters.status();
  return std::make_unique<EchoClient>(manifest, rank, std::move(places), *std::move(gradients),
                                      *std::move(parameters));
}

}  // namespace muond
