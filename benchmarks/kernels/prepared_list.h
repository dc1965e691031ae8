// Newton-Schulz of a list of matrices, prepared once and launched often: what kernels/optim would enqueue, recorded
// and compiled for the grouped product kernels, in rounds of bounded workspace as MuonStep runs them.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/cuda/products.h"
#include "kernels/optim/newton_schulz.h"

namespace muond::bench {

class PreparedList {
 public:
  // Rounds take consecutive tasks while directions, second X and squares fit `workspace_bytes`. `workspace` and the
  // matrices must outlive the list. RESOURCE_EXHAUSTED when one matrix alone does not fit.
  static absl::StatusOr<PreparedList> Create(GroupedProducts& products,
                                             absl::Span<const NewtonSchulzTask> tasks,
                                             void* workspace, uint64_t workspace_bytes);
  absl::Status Launch(cudaStream_t stream);

  size_t rounds() const { return rounds_.size(); }
  size_t products() const { return product_count_; }
  uint64_t device_bytes() const;  // of the compiled lists
  uint64_t workspace_bytes() const {
    return workspace_bytes_;
  }  // of the largest round, directions included
  // What one task takes of the workspace, its direction included.
  static uint64_t BytesOf(const NewtonSchulzTask& task);

 private:
  explicit PreparedList(GroupedProducts& products) : products_(&products) {}

  GroupedProducts* products_;
  std::vector<std::unique_ptr<GroupedProducts::Program>> rounds_;
  size_t product_count_ = 0;
  uint64_t workspace_bytes_ = 0;
};

}  // namespace muond::bench
