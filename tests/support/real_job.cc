#include "tests/support/real_job.h"

#include <cstring>
#include <random>
#include <thread>
#include <utility>

#include "tests/support/manifests.h"

namespace muond::testing {
namespace {

std::vector<float> Noise(uint64_t seed, size_t count) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

size_t Elements(const TensorSpec& tensor) {
  size_t elements = 1;
  for (const int64_t side : tensor.shape) elements *= static_cast<size_t>(side);
  return elements;
}

}  // namespace

Manifest SmallManifest(int32_t world_size, const std::string& name) {
  Manifest manifest = EmptyManifest(world_size, name);
  manifest.tensors = {Tensor("up", {24, 16}), Tensor("down", {12, 40}),
                      Tensor("norm", {24}, Rule::kAdamW)};
  return manifest;
}

absl::StatusOr<std::unique_ptr<RealJob>> RealJob::Attach(const std::string& endpoint,
                                                         const std::string& name,
                                                         int32_t world_size, bool adopt) {
  const Manifest manifest = SmallManifest(world_size, name);
  const std::vector<RankManifest> ranks = Replicated(manifest);
  AttachOptions options;
  options.endpoint = endpoint;
  options.adopt = adopt;
  options.join_timeout = absl::Minutes(2);
  std::vector<absl::StatusOr<std::unique_ptr<Client>>> clients(ranks.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    threads.emplace_back(
        [&, rank] { clients[rank] = AttachToDaemon(options, manifest, ranks[rank]); });
  }
  for (std::thread& thread : threads) thread.join();
  auto job = std::make_unique<RealJob>();
  job->factors_.assign(ranks.size(), 1.0);
  for (auto& client : clients) {
    if (!client.ok()) return client.status();
    job->ranks_.push_back(*std::move(client));
  }
  if (adopt) return job;
  for (auto& client : job->ranks_) {
    for (size_t t = 0; t < manifest.tensors.size(); ++t) {
      const std::vector<float> first = Noise(900 + t, Elements(manifest.tensors[t]));
      std::memcpy(client->parameter_slab()->data() + client->places()[t].parameter_offset,
                  first.data(), first.size() * sizeof(float));
    }
  }
  return job;
}

absl::StatusOr<StepResult> RealJob::Step(Spoil spoil) {
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    Client& client = *ranks_[rank];
    const uint64_t step = client.info().last_step + 1;
    const auto& tensors = client.manifest().tensors;
    for (size_t t = 0; t < tensors.size(); ++t) {
      std::vector<float> gradient = Noise(step * 131 + t, Elements(tensors[t]));
      if (spoil != nullptr) spoil(static_cast<int32_t>(rank), static_cast<int32_t>(t), &gradient);
      if (absl::Status put =
              client.Put(static_cast<int32_t>(t), gradient.data(), gradient.size() * sizeof(float));
          !put.ok()) {
        return put;
      }
    }
    StepSettings settings;
    settings.groups = {{0.02 * factors_[rank], 0.1, 0.95, 1e-7, 0, 0, 1},
                       {1e-3, 0.01, 0, 1e-8, 0.9, 0.95, 0}};
    if (auto committed = client.Commit(settings); !committed.ok()) return committed.status();
  }
  absl::StatusOr<StepResult> first;
  for (size_t rank = 0; rank < ranks_.size(); ++rank) {
    absl::StatusOr<StepResult> result = ranks_[rank]->Wait(absl::Minutes(2));
    if (!result.ok()) return result;
    if (rank == 0) first = std::move(result);
  }
  return first;
}

absl::Status RealJob::Steps(int count) {
  for (int i = 0; i < count; ++i) {
    const absl::StatusOr<StepResult> result = Step();
    if (!result.ok()) return result.status();
    if (!result->applied) return absl::AbortedError(result->text);
  }
  return absl::OkStatus();
}

std::vector<std::vector<float>> RealJob::Parameters() const {
  std::vector<std::vector<float>> tensors;
  Client& client = *ranks_.front();
  for (size_t t = 0; t < client.manifest().tensors.size(); ++t) {
    const char* from = client.parameter_slab()->data() + client.places()[t].parameter_offset;
    std::vector<float>& values = tensors.emplace_back(Elements(client.manifest().tensors[t]));
    std::memcpy(values.data(), from, values.size() * sizeof(float));
  }
  return tensors;
}

absl::Status RealJob::Leave() {
  absl::Status first;
  for (auto& client : ranks_) first.Update(client->Detach());
  ranks_.clear();
  return first;
}

}  // namespace muond::testing
