// What the files of the C interface share: the engine's struct, answers, values from structs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/capi/engine.h"
#include "kernels/capi/muond_kernels.h"

struct muond_kernels {
  std::unique_ptr<muond::Engine> engine;
};

namespace muond::capi {

// Keeps the text for muond_kernels_message() of this thread.
muond_kernels_status Answer(const absl::Status& status);
muond_kernels_status Refuse(const std::string& message);

// INVALID_ARGUMENT with its numbers for what is no matrix; `what` and `index` name it.
absl::StatusOr<Matrix> MatrixOf(const muond_kernels_matrix& matrix, const char* what, size_t index);

inline constexpr uint64_t kAlignment = 256;
inline uint64_t Aligned(uint64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace muond::capi
