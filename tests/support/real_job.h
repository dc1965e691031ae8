// RealJob: a training job of one or more ranks in this process, over the real client, against daemons that are processes.
// Its gradients depend on step, tensor and nothing else, so that two runs of it end with equal bits.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/core/client.h"

namespace muond::testing {

// Two matrices, a tall and a wide one, and a vector: "up" [24, 16], "down" [12, 40], "norm" [24].
Manifest SmallManifest(int32_t world_size, const std::string& name);

class RealJob {
 public:
  // All ranks attach, each on a thread of its own (a join waits for the others). Parameters are given their first values
  // unless `adopt`.
  static absl::StatusOr<std::unique_ptr<RealJob>> Attach(const std::string& endpoint,
                                                         const std::string& name,
                                                         int32_t world_size = 1,
                                                         bool adopt = false);
  // One step on every rank. `spoil` gets the gradient of each tensor before it is put.
  using Spoil = void (*)(int32_t rank, int32_t tensor, std::vector<float>* gradient);
  absl::StatusOr<StepResult> Step(Spoil spoil = nullptr);
  absl::Status Steps(int count);  // all of them applied
  // Rank r steps with its learning rate times factors[r] from now on.
  void ScaleRates(std::vector<double> factors) { factors_ = std::move(factors); }
  std::vector<std::vector<float>> Parameters() const;  // of rank 0, by tensor
  Client& rank(int32_t rank) { return *ranks_[static_cast<size_t>(rank)]; }
  absl::Status Leave();
  void Die() { ranks_.clear(); }  // without a word, as a killed process does

 private:
  std::vector<std::unique_ptr<Client>> ranks_;
  std::vector<double> factors_;
};

}  // namespace muond::testing
