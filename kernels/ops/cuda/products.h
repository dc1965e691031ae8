// GroupedProducts: runs lists of products on a Hopper GPU, one launch for a whole list, dependent phases included.
//
// A list is compiled once (records, tensor maps and dependencies uploaded; about 0.3 us a matrix operand) and then
// launched as often as its pointers stay valid, also from a captured stream (CUDA graphs).
// Products of one phase are independent of each other; those of later phases see the results of earlier ones. The order
// within one launch is kept by counters on the device, derived here from the address ranges that products read and write.
// Bits: those of a product depend on its shape, layout and dtype only.
// Operands: one 16-bit dtype for all of a list; pointers 16-byte aligned; leading dimensions multiples of 8. Where D's columns
// are no multiple of 8, what lies behind them up to the next one is overwritten (stores end on 16 bytes).
// Matrices marked `half` are stored as their 256 x 256 blocks on and below the diagonal; the rest is neither written nor read. A list may mix
// both kinds, but half A goes with half B (of a symmetric product) or with B as [k, n], half B with A as stored or half.
// Threads: safe from any thread, but one Program may be in flight only once at a time.
// Errors: INVALID_ARGUMENT names the product; RESOURCE_EXHAUSTED the bytes; CUDA's own as INTERNAL.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/ops/ops.h"

namespace muond {

class GroupedProducts {
 public:
  // A compiled list: device memory of its own. Must outlive its launches (and graphs that captured them).
  class Program {
   public:
    virtual ~Program() = default;
    virtual uint64_t device_bytes() const = 0;
  };

  // For the current CUDA device; UNIMPLEMENTED where it is no sm_90.
  static absl::StatusOr<std::unique_ptr<GroupedProducts>> Create();
  virtual ~GroupedProducts() = default;

  // OK when Compile would take this product.
  virtual absl::Status Check(const Product& product) const = 0;
  // `phase_ends[i]` is the index behind the last product of phase i; empty: one phase. Waits for its upload.
  virtual absl::StatusOr<std::unique_ptr<Program>> Compile(
      absl::Span<const Product> products, absl::Span<const size_t> phase_ends = {}) = 0;
  virtual absl::Status Launch(cudaStream_t stream, const Program& program) = 0;
  // Compile and Launch, remembering the last lists (512 of them): the same list again costs a comparison.
  // Not for a captured stream.
  virtual absl::Status Run(cudaStream_t stream, absl::Span<const Product> products,
                           absl::Span<const size_t> phase_ends = {}) = 0;
};

}  // namespace muond
