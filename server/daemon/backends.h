// The one place that names concrete backends.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/ops/ops.h"
#include "kernels/runtime/backend.h"
#include "server/daemon/config.h"

namespace muond {

struct ChosenBackend {
  std::unique_ptr<Backend> backend;
  std::function<absl::StatusOr<std::unique_ptr<Ops>>(Device&)> make_ops;
  std::string name;  // "cpu", "cuda"
};

// UNAVAILABLE with the reason when cuda is asked for and cannot be had; auto then takes the CPU.
absl::StatusOr<ChosenBackend> ChooseBackend(const Config& config);

}  // namespace muond
