// Task lists: what a grouped element-wise launch is told, as plain structs that travel in the kernel's parameters.
//
// A launch covers many tensors. Each is cut into tiles of kTileElements consecutive elements in whole-matrix
// row-major order; one CTA does one tile. Tiles are counted per tensor, so what a CTA sums and in which order
// depends on the tensor's shape alone, never on its layout or its neighbours in the list.
// Kernel parameters hold up to 32,764 bytes: nothing is uploaded, nothing can block, and a captured graph owns its lists.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops/ops.h"
#include "kernels/runtime/dtype.h"

namespace muond::elementwise {

inline constexpr int kThreads = 256;
inline constexpr int kVector = 4;  // elements of one access: 16 bytes of fp32
inline constexpr int kVectorsPerThread = 16;
inline constexpr int kTileElements = kThreads * kVector * kVectorsPerThread;  // 16384

inline constexpr int kSmallListBytes =
    3968;  // with the header: below the 4 KiB that launch fastest
inline constexpr int kLargeListBytes = 32512;
inline constexpr int kMaxSources = 500;  // of one task of one launch; longer lists are cut by tiles

// Where elements are read from: a flat run of the matrix (full rows, no gaps), or a rectangle of it.
struct Source {
  const char*
      data;  // flat: where element 0 of the matrix would be; rectangle: its own element (0, 0)
  const void* const* base;  // not null: what is to be added to `data`, read when it runs
  union {
    struct {
      int64_t begin, end;  // flat element numbers
    } flat;
    struct {
      int32_t row, col, rows, cols;
    } rect;
  };
  int64_t ld;  // rectangle only
  DType dtype;
  bool is_flat;
  bool aligned;       // every group of four elements at a multiple of four can be read at once
  bool ends_replica;  // the last source of its replica
  uint8_t merges;     // how many sums of the replica tree are complete before this replica joins
};

// A strided matrix that a tile reads or writes.
struct Plane {
  char* data;
  int64_t ld;
  DType dtype;
  bool is_flat;  // ld == cols
  bool aligned;  // groups of four elements lie in one row and can be moved at once
};

struct SourceRange {
  uint16_t first, count;
  uint16_t replicas;  // 1: no tree
  bool in_order;      // the replicas are 0, 1, 2, ...: the tree depends on their number alone
};

struct Extent {
  int64_t elements, cols;
  int32_t launch_tile;  // the launch's first tile of this item
  int32_t first_tile;   // which tile of the tensor that is
  bool is_piece;        // other launches hold the rest of the tensor
};

// A matrix's scalars as the direction needs them.
struct DirectionRule {
  float scale, momentum, rest;
  int32_t nesterov;
  double eps;
};

// Launch scratch: one a stream, zero between launches where it says so.
inline constexpr int kScratchTasks = 1024;
inline constexpr int kScratchTiles = 1 << 19;
inline constexpr int kMeasureWords = BinnedSum::kWindows + 1;
struct Scratch {
  uint32_t tiles_done[kScratchTasks];  // zero between launches
  uint32_t any_corrected;              // of the batch of directions under way
  uint64_t measure[kScratchTasks]
                  [kMeasureWords];    // zero between launches: windows, then the non-finite count
  DirectionRule rule[kScratchTasks];  // a copy of the scalars: they may lie in host memory
  int32_t exponent[kScratchTasks];    // guessed power of two that scales a float16 direction
  int32_t corrected[kScratchTasks];   // the right one, where the guess was not; else kNoCorrection
  double sum[kScratchTiles];
  float maximum[kScratchTiles];
};
inline constexpr int32_t kNoCorrection = INT32_MIN;

struct MeasureItem {
  Extent extent;
  SourceRange source;
  bool want_norm;
  int32_t slot;       // in the scratch
  uint64_t* windows;  // of the result, host-visible
  uint64_t* non_finite;
};

struct DirectionItem {
  Extent extent;
  SourceRange gradient;
  bool state_aligned;
  bool plain;  // one dense aligned run on every side: only the tensor's last tile may need more
  int32_t slot, first_sum, tiles;
  const float* momentum_in;  // null: no momentum, u = g
  float* momentum_out;
  Plane direction;
  double* norm;
  const MuonScalars* scalars;
};

struct ApplyItem {
  Extent extent;
  SourceRange parameter;
  bool plain;  // as DirectionItem's
  Plane out, update;
  const MuonScalars* scalars;
};

struct AdamWItem {
  Extent extent;
  SourceRange gradient, parameter;
  bool present, state_aligned;
  bool plain;  // as DirectionItem's
  int32_t slot, tiles;
  Plane out;
  const float *exp_avg_in, *exp_avg_sq_in;
  float *exp_avg_out, *exp_avg_sq_out;
  const double* step_in;
  double* step_out;
  const AdamWScalars* scalars;
};

struct ScatterItem {
  Extent extent;
  Plane from, to;
};

// What a kernel gets: items, then sources.
template <int kBytes>
struct List {
  int32_t items;
  int32_t sources_at;  // byte offset in `data`
  bool plain;          // every item is: no maps are needed
  alignas(16) char data[kBytes];

#ifdef __CUDACC__
  template <class Item>
  __device__ const Item* item_array() const {
    return reinterpret_cast<const Item*>(data);
  }
  __device__ const Source* source_array() const {
    return reinterpret_cast<const Source*>(data + sources_at);
  }
#endif
};

}  // namespace muond::elementwise
