// D = alpha A op(B) + beta C for a list of products of mixed shapes, 16 bit in, fp32 accumulate, 16 bit out.
//
// Persistent clusters of two CTAs. A cluster owns 256 x 256 of D, each consumer warpgroup a strip of 64 rows (wgmma
// m64n256k16): strips 0 and 3 in one CTA, 1 and 2 in the other, so that a triangle's 64, 128, 192 and 256 columns make
// equal work. The B block is loaded once a cluster: each CTA loads one half and multicasts it. Four stages of 48 KB
// (A 128x64, B 256x64).
//
// One ring carries everything: after a tile's k-blocks come two more slots, one a consumer warpgroup, that hold
// the strip's block of C (32 KB); the epilogue turns it into D in place, writes the transposed strip (the mirror of a
// symmetric product) beside it, and a store warp drains both while the next tile's products already run.
//
// Warps: 0 loads, 1 and 2 store (one a consumer), 3 decodes the list of tiles; 4-11 multiply.
// A half-stored operand is read as it lies up to its diagonal block and transposed behind it: k-blocks [0, b_turns) take
// both operands K-major, [b_turns, a_turns) take B MN-major, the rest both.
// Symmetric products compute rows >= columns only, to the 64 columns; the element-exact triangle is chosen inside the
// diagonal 64 x 64 blocks, so that D == D^T bit for bit and no element's bits depend on the tile that made it.
// Order between dependent products of one launch: strips are counted (release) when their stores are done; warp 3
// publishes a tile only when the products it depends on are counted full (acquire).
#include <cuda.h>

#include <cstdint>
#include <cstdio>

#include "kernels/ops/cuda/hopper_epilogue.h"
#include "kernels/ops/cuda/hopper_products.h"
#include "kernels/ops/cuda/hopper_program.h"
#include "kernels/ops/cuda/hopper_ptx.h"
#include "kernels/ops/cuda/hopper_wgmma.h"

namespace muond::hopper {
namespace {

constexpr int kStages = 4;
constexpr int kInfos = 4;
constexpr uint32_t kBytesA = 2 * kBox, kBytesB = 4 * kBox;
constexpr uint32_t kStage = kBytesA + kBytesB;
constexpr uint32_t kMirror = kStages * kStage;  // the mirror's other 2 boxes, one pair a warpgroup
constexpr uint32_t kControl = kMirror + 4 * kBox;
constexpr int kThreads = 384;

struct alignas(16) TileInfo {
  uint64_t map_a, map_b, map_c, map_d, map_d2;
  uint32_t* finished;   // counter of the product's strips
  int32_t row, column;  // of the cluster's tile
  int32_t m, n, k_blocks;
  int32_t a_turns, b_turns;  // the k-block from which an operand lies MN-major; b_turns <= a_turns
  uint32_t flags;
  float alpha, beta, diagonal, diagonal2;
};

struct Control {
  TileInfo infos[kInfos];
  alignas(8) uint64_t full[kStages], empty[kStages];
  uint64_t info_full[kInfos], info_empty[kInfos];
  uint64_t drain[2][4], mirror_free[2];  // drain: one a 64-column block of the strip
  uint16_t diagonal2[2][64];             // the elements of D2's diagonal block that differ from D's
};
static_assert(kControl + sizeof(Control) + 1024 <= 232448);

// First row of the strip that warpgroup `group` of CTA `rank` computes.
__device__ __forceinline__ int StripRow(const TileInfo& t, uint32_t rank, int group) {
  return t.row + kStrip * (group == 0 ? static_cast<int>(rank) : 3 - static_cast<int>(rank));
}

// How many 64-column blocks of the tile the strip starting at `row` computes.
__device__ __forceinline__ int StripBlocks(const TileInfo& t, int row) {
  if (row >= t.m) return 0;
  const int end = (t.flags & kSymmetric) && row + kStrip < t.n ? row + kStrip : t.n;
  const int blocks = (end - t.column + 63) >> 6;
  return blocks < 4 ? blocks : 4;
}

// Whether the tile's transpose is stored as well.
__device__ __forceinline__ bool Mirrors(const TileInfo& t) {
  return (t.flags & kSymmetric) != 0 && ((t.flags & kHalfD) == 0 || t.row == t.column);
}

// Whether A's strips are among B's boxes already.
__device__ __forceinline__ bool TakesAFromB(const TileInfo& t) {
  return (t.flags & kSquare) != 0 && t.row == t.column;
}

// What alpha and beta are divided by.
__device__ __forceinline__ double Divisor(const ProductRecord& p) {
  double divisor = 1;
  if (p.divisor != nullptr) {
    const double bounded =
        *p.divisor < p.divisor_floor ? p.divisor_floor : *p.divisor;  // NaN stays
    for (int i = 0; i < p.divisor_power; ++i) divisor *= bounded;
  }
  return divisor;
}

// Until every product that `p` depends on is finished; the warp's lanes share the list.
__device__ void AwaitDependencies(const Launch& launch, const ProductRecord& p, int lane) {
  for (uint32_t i = static_cast<uint32_t>(lane); i < p.dependencies; i += 32) {
    const Dependency d = launch.dependencies[p.first_dependency + i];
    const uint32_t* counter = launch.counters + d.product;
#ifdef MUOND_TRAP_ON_HANG
    for (uint32_t spins = 0; LoadAcquire(counter) < d.strips; ++spins) {
      if (spins > 20000000u) {
        printf("hang: block %d, product %u at %u of %u\n", blockIdx.x, d.product,
               LoadAcquire(counter), d.strips);
        __trap();
      }
    }
#else
    while (LoadAcquire(counter) < d.strips) {
    }
#endif
  }
  __syncwarp();
}

// Warp 3: walks the list of tiles, every gridDim.x / 2 -th is this cluster's, and decodes it for the others.
__device__ void Decode(const Launch& launch, Control* control, int lane) {
  const uint32_t stride = gridDim.x >> 1;
  uint32_t product = 0, ready = ~0u;
  int slot = 0;
  uint32_t phase = 1;
  for (uint32_t tile = blockIdx.x >> 1;; tile += stride) {
    for (
        ;
        ;) {  // the last record whose first tile is not behind `tile`; the record behind the last is the total
      const uint32_t probe = product + 1 + static_cast<uint32_t>(lane);
      const bool reached = probe <= launch.products && launch.records[probe].first_tile <= tile;
      const unsigned votes = __ballot_sync(~0u, reached);
      product += static_cast<uint32_t>(__popc(votes));
      if (votes != ~0u) break;
    }
    TileInfo& info = control->infos[slot];
    BarrierWait(SharedAddress(&control->info_empty[slot]), phase);
    const bool end = product >= launch.products;
    if (!end && product != ready) {
      AwaitDependencies(launch, launch.records[product], lane);
      ready = product;
    }
    if (lane == 0) {
      if (end) {
        info.flags = kEnd;
      } else {
        const ProductRecord& p = launch.records[product];
        const uint64_t maps = reinterpret_cast<uint64_t>(launch.maps);
        info.map_a = maps + p.map_a * 128ull;
        info.map_b = maps + p.map_b * 128ull;
        info.map_c = maps + p.map_c * 128ull;
        info.map_d = maps + p.map_d * 128ull;
        info.map_d2 = maps + p.map_d2 * 128ull;
        PrefetchMap(info.map_a);
        PrefetchMap(info.map_b);
        if (p.flags & kHasC) PrefetchMap(info.map_c);
        PrefetchMap(info.map_d);
        if (p.flags & kHasD2) PrefetchMap(info.map_d2);
        info.finished = launch.counters + product;
        const TilePlace place = PlaceOf(tile - p.first_tile, (p.m + kTile - 1) / kTile,
                                        (p.n + kTile - 1) / kTile, (p.flags & kSymmetric) != 0);
        info.row = place.row * kTile;
        info.column = place.column * kTile;
        info.m = p.m;
        info.n = p.n;
        info.k_blocks = (p.k + kDepth - 1) / kDepth;
        constexpr int kBlocksPerTile = kTile / kDepth;
        const int through_row = min(info.k_blocks, (place.row + 1) * kBlocksPerTile);
        const int through_column = min(info.k_blocks, (place.column + 1) * kBlocksPerTile);
        info.a_turns = p.flags & kHalfA ? through_row : p.flags & kATransposed ? 0 : info.k_blocks;
        info.b_turns = p.flags & kHalfB ? through_column : p.flags & kBPlain ? 0 : info.k_blocks;
        info.flags = p.flags;
        const double divisor = Divisor(p);
        info.alpha = static_cast<float>(p.alpha / divisor);
        info.beta = static_cast<float>(p.beta / divisor);
        info.diagonal = static_cast<float>(p.diagonal);
        info.diagonal2 = static_cast<float>(p.diagonal2);
      }
      BarrierArrive(SharedAddress(&control->info_full[slot]));
    }
    __syncwarp();
    if (end) return;
    if (++slot == kInfos) {
      slot = 0;
      phase ^= 1;
    }
  }
}

// Iterates over the decoded tiles; one object a reader (a thread, or a warp that moves together).
struct TileReader {
  Control* control;
  int slot = 0;
  uint32_t phase = 0;
  __device__ TileInfo& Wait() {
    BarrierWait(SharedAddress(&control->info_full[slot]), phase);
    return control->infos[slot];
  }
  __device__ void Release() {
    BarrierArrive(SharedAddress(&control->info_empty[slot]));
    Next();
  }
  __device__ void Next() {
    if (++slot == kInfos) {
      slot = 0;
      phase ^= 1;
    }
  }
};

// Warp 0, one lane: fills the ring. Each slot is announced to both CTAs: when a slot is full here, the other CTA's has
// been taken too, so that a release of it can never be counted for the use before.
__device__ void Load(Control* control, uint32_t smem, uint32_t rank) {
  const uint32_t full = SharedAddress(control->full), empty = SharedAddress(control->empty);
  TileReader reader{control};
  uint32_t it = 0;
  for (;;) {
    const TileInfo& shared = reader.Wait();
    if (shared.flags & kEnd) return;
    const TileInfo t = shared;
    reader.Release();
    FenceAsync();  // what warp 3 saw finished was written through the async proxy of other CTAs
    const int rows[2] = {StripRow(t, rank, 0), StripRow(t, rank, 1)};
    const int column = t.column + static_cast<int>(rank) * 128;
    const bool a_from_b = TakesAFromB(t);
    for (int kb = 0; kb < t.k_blocks; ++kb, ++it) {
      const uint32_t slot = it % kStages;
      BarrierWait(empty + 8 * slot, ((it / kStages) & 1) ^ 1);
      const uint32_t bar = full + 8 * slot;
      BarrierArriveAt(bar, rank ^ 1, 1);
      BarrierArriveExpect(bar, a_from_b ? kBytesB : kStage);
      const uint32_t stage = smem + slot * kStage;
      const uint32_t b = stage + kBytesA + rank * 2 * kBox;
      const int k = kb * kDepth;
      if (!a_from_b) {
        const bool turned = kb >= t.a_turns;
        LoadBox(stage, t.map_a, turned ? rows[0] : k, turned ? k : rows[0], bar);
        LoadBox(stage + kBox, t.map_a, turned ? rows[1] : k, turned ? k : rows[1], bar);
      }
      if (kb >= t.b_turns) {
        LoadBoxBoth(b, t.map_b, column, k, bar);
        LoadBoxBoth(b + kBox, t.map_b, column + 64, k, bar);
      } else {
        LoadBoxBoth(b, t.map_b, k, column, bar);
        LoadBoxBoth(b + kBox, t.map_b, k, column + 64, bar);
      }
    }
    for (int group = 0; group < 2; ++group, ++it) {  // the slots of C and D
      const uint32_t slot = it % kStages;
      BarrierWait(empty + 8 * slot, ((it / kStages) & 1) ^ 1);
      const uint32_t bar = full + 8 * slot;
      BarrierArriveAt(bar, rank ^ 1, 1);
      const int blocks = (t.flags & kHasC) ? StripBlocks(t, rows[group]) : 0;
      BarrierArriveExpect(bar, static_cast<uint32_t>(blocks) * kBox);
      for (int j = 0; j < blocks; ++j) {
        LoadBox(smem + slot * kStage + static_cast<uint32_t>(j) * kBox, t.map_c, t.column + 64 * j,
                rows[group], bar);
      }
    }
  }
}

// Warps 1 and 2, one lane each: drains the D slot of consumer warpgroup `group`.
__device__ void Drain(Control* control, uint32_t smem, uint32_t rank, int group) {
  const uint32_t full = SharedAddress(control->full), empty = SharedAddress(control->empty);
  TileReader reader{control};
  uint32_t it = 0, phases = 0;  // a bit a block: the phase of its barrier
  for (;;) {
    const TileInfo& shared = reader.Wait();
    if (shared.flags & kEnd) return;
    const TileInfo t = shared;
    reader.Release();
    const uint32_t own = it + static_cast<uint32_t>(t.k_blocks + group), slot = own % kStages;
    it += static_cast<uint32_t>(t.k_blocks) + 2;
    const int row = StripRow(t, rank, group);
    const int blocks = StripBlocks(t, row);
    const uint32_t d = smem + slot * kStage;
    const uint32_t mirror = smem + kMirror + static_cast<uint32_t>(group) * 2 * kBox;
    BarrierWait(full + 8 * slot, (own / kStages) & 1);
    for (int j = 0; j == 0 || j < blocks; ++j) {
      BarrierWait(SharedAddress(&control->drain[group][j]), (phases >> j) & 1);
      phases ^= 1u << j;
      if (j == blocks) break;  // an empty strip: its consumer only says that it has seen the slot
      const int column = t.column + 64 * j;
      const uint32_t box = d + static_cast<uint32_t>(j) * kBox;
      const uint32_t other = j < 2 ? d + kMirrorInSlot + static_cast<uint32_t>(j) * kBox
                                   : mirror + static_cast<uint32_t>(j - 2) * kBox;
      StoreBox(t.map_d, column, row, box);
      if (!Mirrors(t)) {
        if (t.flags & kHasD2) StoreBox(t.map_d2, column, row, box);
        continue;
      }
      if (column != row) {
        StoreBox(t.map_d, row, column, other);
        if (t.flags & kHasD2) {
          StoreBox(t.map_d2, column, row, box);
          StoreBox(t.map_d2, row, column, other);
        }
      } else if (t.flags & kHasD2) {
        StoreBox(t.map_d2, column, row, other);
      }
    }
    StoreCommit();
    StoreWaitRead();
    BarrierArrive(SharedAddress(&control->mirror_free[group]));
    BarrierArriveAt(empty + 8 * slot, rank ^ 1, 2);  // for both warpgroups of this CTA
    BarrierArriveAt(empty + 8 * slot, rank, 2);
    StoreWaitDone();
    FenceAsync();
    AddRelease(t.finished, 1);
  }
}

// A warpgroup's place in the ring. Lane 0 of its warp 0 releases the slots.
struct Ring {
  uint32_t smem, full, empty, rank;
  bool releases;
  uint32_t a = 0;   // where in a stage this strip's rows of A lie
  uint32_t it = 0;  // runs over the ring's slots

  __device__ __forceinline__ void Await() const {
    BarrierWait(full + 8 * (it % kStages), (it / kStages) & 1);
  }
  __device__ __forceinline__ void Release(uint32_t which) const {
    if (!releases) return;
    BarrierArriveAt(empty + 8 * (which % kStages), rank ^ 1, 1);
    BarrierArriveAt(empty + 8 * (which % kStages), rank, 1);
  }
};

// K-blocks [begin, end) of one strip, both operands lying one way.
template <bool kBf16, int kColumns, int kTransA, int kTransB>
__device__ __forceinline__ void Multiply(float (&d)[128], Ring& ring, int begin, int end) {
  constexpr uint32_t kStepA = kTransA ? 2048 : 32, kStepB = kTransB ? 2048 : 32;
  if (begin >= end) return;
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
  for (int kb = begin; kb < end; ++kb, ++ring.it) {
    ring.Await();
    const uint32_t stage = ring.smem + ring.it % kStages * kStage;
    const uint64_t a = OperandDescriptor(stage + ring.a);
    const uint64_t b = OperandDescriptor(stage + kBytesA);
    WgmmaFence();
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k) {
      Wgmma<kColumns, kBf16, kTransA, kTransB>::Run(d, a + k * (kStepA >> 4), b + k * (kStepB >> 4),
                                                    (kb | k) != 0);
    }
    WgmmaCommit();
    WgmmaWait<1>();
    if (kb > begin) ring.Release(ring.it + kStages - 1);  // the block before this one has been read
  }
  WgmmaWait<0>();
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
  ring.Release(ring.it + kStages - 1);
}

template <bool kBf16, int kColumns>
__device__ __forceinline__ void MultiplyAll(float (&d)[128], Ring& ring, int a_turns, int b_turns,
                                            int k_blocks) {
  Multiply<kBf16, kColumns, 0, 0>(d, ring, 0, b_turns);
  Multiply<kBf16, kColumns, 0, 1>(d, ring, b_turns, a_turns);
  Multiply<kBf16, kColumns, 1, 1>(d, ring, a_turns, k_blocks);
}

template <bool kBf16>
__device__ __forceinline__ void MultiplyStrip(int blocks, float (&d)[128], Ring& ring, int a_turns,
                                              int b_turns, int k_blocks) {
  if (blocks == 0) {  // below the matrix: the strip only keeps step with the ring
    for (int kb = 0; kb < k_blocks; ++kb, ++ring.it) {
      ring.Await();
      ring.Release(ring.it);
    }
  } else if (blocks == 4) {
    MultiplyAll<kBf16, 256>(d, ring, a_turns, b_turns, k_blocks);
  } else if (blocks == 3) {
    MultiplyAll<kBf16, 192>(d, ring, a_turns, b_turns, k_blocks);
  } else if (blocks == 2) {
    MultiplyAll<kBf16, 128>(d, ring, a_turns, b_turns, k_blocks);
  } else {
    MultiplyAll<kBf16, 64>(d, ring, a_turns, b_turns, k_blocks);
  }
}

template <bool kBf16>
__device__ __forceinline__ void Consume(Control* control, uint32_t smem, uint32_t rank, int group,
                                        int thread) {
  const uint32_t full = SharedAddress(control->full), empty = SharedAddress(control->empty);
  const uint32_t mirror_late = smem + kMirror + static_cast<uint32_t>(group) * 2 * kBox;
  TileReader reader{control};
  Ring ring{smem, full, empty, rank, thread == 0};
  float acc[128];
  for (uint32_t tile = 0;; ++tile) {
    const TileInfo& t = reader.Wait();
    const uint32_t flags = t.flags;
    if (flags & kEnd) return;
    const int row = StripRow(t, rank, group);
    const int blocks = StripBlocks(t, row);
    const int k_blocks = t.k_blocks, a_turns = t.a_turns, b_turns = t.b_turns;
    const bool mirrors = Mirrors(t);
    ring.a = TakesAFromB(t) ? kBytesA + static_cast<uint32_t>((row - t.row) >> 6) * kBox
                            : static_cast<uint32_t>(group) * kBox;
    const Scalars scalars{t.alpha, t.beta, t.diagonal, t.diagonal2};
    // Which of the tile's 64-column blocks holds the strip's diagonal; 4 when none does.
    const int diagonal_block =
        row >= t.column && row < t.column + kTile ? (row - t.column) >> 6 : 4;
    __syncwarp();
    if ((thread & 31) == 0) {
      reader.Release();
    } else {
      reader.Next();
    }
    MultiplyStrip<kBf16>(blocks, acc, ring, a_turns, b_turns, k_blocks);
    const uint32_t own = ring.it + static_cast<uint32_t>(group);
    ring.it += 2;
    BarrierWait(full + 8 * (own % kStages), (own / kStages) & 1);
    BarrierWait(SharedAddress(&control->mirror_free[group]), (tile & 1) ^ 1);
    Epilogue<kBf16>(acc, blocks, flags, mirrors, diagonal_block, scalars,
                    smem + (own % kStages) * kStage, mirror_late, thread, group,
                    control->diagonal2[group], SharedAddress(control->drain[group]));
  }
}

template <bool kBf16>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kThreads, 1)
    ProductKernel(const __grid_constant__ Launch launch) {
  extern __shared__ uint8_t raw[];
  const uint32_t smem = (SharedAddress(raw) + 1023) & ~1023u;
  Control* control = reinterpret_cast<Control*>(raw + (smem - SharedAddress(raw)) + kControl);
  const uint32_t rank = ClusterRank();
  const int warp = static_cast<int>(threadIdx.x >> 5), lane = static_cast<int>(threadIdx.x & 31);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      BarrierInit(SharedAddress(&control->full[i]), 2);   // both loaders: see Load
      BarrierInit(SharedAddress(&control->empty[i]), 4);  // two warpgroups of two CTAs
    }
    for (int i = 0; i < kInfos; ++i) {
      BarrierInit(SharedAddress(&control->info_full[i]), 1);
      BarrierInit(SharedAddress(&control->info_empty[i]),
                  11);  // loader, two drains, eight consumer warps
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) BarrierInit(SharedAddress(&control->drain[i][j]), 128);
      BarrierInit(SharedAddress(&control->mirror_free[i]), 1);
    }
    BarrierInitFence();
  }
  __syncthreads();
  ClusterSync();
  if (warp < 4) {
    ShrinkRegisters<40>();
    if (warp == 3) {
      Decode(launch, control, lane);
    } else if (lane == 0) {
      if (warp == 0) {
        Load(control, smem, rank);
      } else {
        Drain(control, smem, rank, warp - 1);
      }
    }
    __syncwarp();
  } else {
    GrowRegisters<232>();
    Consume<kBf16>(control, smem, rank, (warp >> 2) - 1, static_cast<int>(threadIdx.x & 127));
  }
  ClusterSync();  // the other CTA may still arrive at barriers here
}

}  // namespace

cudaError_t LaunchProducts(cudaStream_t stream, const Launch& launch, bool bf16, int clusters) {
  constexpr int kShared = static_cast<int>(kControl + sizeof(Control) + 1024);
  const auto kernel = bf16 ? ProductKernel<true> : ProductKernel<false>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (error != cudaSuccess) return error;
  kernel<<<2 * clusters, kThreads, kShared, stream>>>(launch);
  return cudaGetLastError();
}

}  // namespace muond::hopper
