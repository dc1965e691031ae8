// What the host prepares and the product kernel reads: one ProductRecord a product, in the order of work.
#pragma once

#include <cstdint>

namespace muond::hopper {

constexpr int kTile = 256;  // a cluster of two CTAs owns kTile x kTile of D, each CTA 128 rows
constexpr int kStrip = 64;  // a warpgroup owns 64 rows
constexpr int kDepth = 64;  // k-block
constexpr int kStripsPerTile = kTile / kStrip;
constexpr int kGroupRows =
    8;  // tiles are walked column by column within groups of 8 tile rows (for L2)

enum ProductFlags : uint32_t {
  kSymmetric = 1,    // rows >= columns only, mirrored
  kATransposed = 2,  // A is stored [k, m]
  kBPlain = 4,       // B is stored [k, n] (unset: [n, k], which is also any symmetric B)
  kHasC = 8,
  kHasD2 = 16,
  kHasDiagonal = 32,  // diagonal or diagonal2 is not zero
  // Symmetric matrices of which only the kTile x kTile blocks on and below the diagonal are stored:
  kHalfA = 64,
  kHalfB = 128,
  kHalfD = 256,     // D2 too
  kSquare = 512,    // op(B) is op(A)^T, from the same memory: on the diagonal B's rows serve as A's
  kEnd = 1u << 31,  // in TileInfo: no more tiles
};

// One earlier product of the launch that must be finished before this one starts: its counter counts finished strips.
struct Dependency {
  uint32_t product, strips;
};

struct alignas(16) ProductRecord {
  uint32_t first_tile;  // in the launch's list of tiles; the record behind the last holds the total
  int32_t m, n, k;
  uint32_t map_a, map_b, map_c, map_d, map_d2;  // places in the array of tensor maps
  uint32_t flags;
  uint32_t first_dependency, dependencies;
  int32_t divisor_power;
  uint32_t reserved;
  double alpha, beta, diagonal, diagonal2;
  const double* divisor;
  double divisor_floor;
};
static_assert(sizeof(ProductRecord) == 112);

struct Launch {
  const ProductRecord* records;  // `products` of them and one behind
  const void* maps;              // CUtensorMap, 128 bytes each
  const Dependency* dependencies;
  uint32_t* counters;  // finished strips of every product; zeroed before the launch
  uint32_t products;
};

// Tile (row, column) in units of kTile of the `index`-th tile of a product, in the order of work.
struct TilePlace {
  int row, column;
};
#ifdef __CUDACC__
__host__ __device__
#endif
    inline TilePlace
    PlaceOf(uint32_t index, int rows, int columns, bool symmetric) {
  if (!symmetric) {
    const uint32_t per_group = static_cast<uint32_t>(kGroupRows * columns);
    const uint32_t group = index / per_group, rest = index % per_group;
    const int first = static_cast<int>(group) * kGroupRows;
    const int height = rows - first < kGroupRows ? rows - first : kGroupRows;
    return {first + static_cast<int>(rest) % height, static_cast<int>(rest) / height};
  }
  int first = 0;
  for (;
       ;) {  // a group of rows [first, first + height): full columns up to `first`, then a triangle
    const int height = rows - first < kGroupRows ? rows - first : kGroupRows;
    const uint32_t full = static_cast<uint32_t>(first * height);
    const uint32_t size = full + static_cast<uint32_t>(height * (height + 1) / 2);
    if (index < size) {
      if (index < full) {
        return {first + static_cast<int>(index) % height, static_cast<int>(index) / height};
      }
      index -= full;
      int column = 0;
      while (static_cast<int>(index) >= height - column) {
        index -= static_cast<uint32_t>(height - column);
        ++column;
      }
      return {first + column + static_cast<int>(index), first + column};
    }
    index -= size;
    first += kGroupRows;
  }
}

}  // namespace muond::hopper
