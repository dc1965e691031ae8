// DType: the element types that tensors, gradients and iterates may have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace muond {

// The values are part of the manifest and of snapshots: never renumber.
enum class DType : uint8_t { kFloat32 = 1, kBFloat16 = 2, kFloat16 = 3 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace muond
