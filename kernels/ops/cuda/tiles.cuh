// Tiles: how a CTA reads and writes kTileElements consecutive elements of a tensor that may lie in many places.
//
// A warp moves a chunk of 128 elements at once, 16 (or 8) bytes a lane. Three ways, the same elements in the same lanes and order:
//   kWhole    one dense aligned run holds the tile: one pointer;
//   kMapped   a table in shared memory says where each chunk lies, for each replica: column shards, padded rows, tails;
//   kSlow     rounds with a chunk that crosses a border, and sums of replicas that are too many or not 0, 1, 2, ...: each lane
//             searches. Kept in calls of its own, lest it take registers from the others.
#pragma once

#include "kernels/ops/cuda/elements.cuh"

namespace muond::elementwise {

enum class Way { kWhole, kMapped, kSlow };

inline constexpr int kWarps = kThreads / 32;
inline constexpr int kChunk = 32 * kVector;
inline constexpr int kChunks = kTileElements / kChunk;
inline constexpr int kMapReplicas = 8;

// Where a CTA's tile lies.
struct Tile {
  int number;     // in the tensor
  int64_t begin;  // its first element
  bool full;

  __device__ Tile(const Extent& extent, int launch_tile)
      : number(extent.first_tile + launch_tile - extent.launch_tile),
        begin(int64_t{number} * kTileElements),
        full(begin + kTileElements <= extent.elements) {}
};

// The first chunk of a thread's groups of `groups` in round `round`; the next ones are kWarps chunks on each.
__device__ inline int ChunkOf(int round, int groups) {
  return round * groups * kWarps + static_cast<int>(threadIdx.x) / 32;
}
__device__ inline int64_t ElementOf(const Tile& tile, int chunk) {
  return tile.begin + chunk * kChunk + (threadIdx.x % 32) * kVector;
}

// Addresses of chunks, the dtype in the low three bits (groups are aligned to 8 bytes at least); 0: not in one place, a border.
using MapRow = uint64_t[kChunks];

__device__ inline uint64_t MapEntry(const char* data, int64_t index, DType dtype) {
  const int64_t bytes = dtype == DType::kFloat32 ? 4 : 2;
  return reinterpret_cast<uint64_t>(data + index * bytes) | static_cast<uint64_t>(dtype);
}

// Row r of `map` gets replica r's chunks. All threads of the CTA; the caller synchronizes.
__device__ inline void MapSources(MapRow* map, const Source* sources, SourceRange range,
                                  const Extent& extent, const Tile& tile) {
  if (!range.in_order || range.replicas > kMapReplicas) return;
  for (int slot = threadIdx.x; slot < range.replicas * kChunks; slot += kThreads) {
    const int replica = slot / kChunks, chunk = slot % kChunks;
    const int64_t element = tile.begin + chunk * kChunk;
    uint64_t entry = 0;
    if (element + kChunk <= extent.elements) {
      const Place place = PlaceOf(element, extent);
      int at = 0;
      for (int i = range.first; i < range.first + range.count; ++i) {
        const Source& source = sources[i];
        if (at == replica && source.aligned && Contains(source, element, place, kChunk)) {
          entry = MapEntry(AddressOf(source), IndexIn(source, element, place), source.dtype);
          break;
        }
        at += source.ends_replica;
      }
    }
    map[replica][chunk] = entry;
  }
}

__device__ inline void MapPlane(MapRow& row, const Plane& plane, const Extent& extent,
                                const Tile& tile) {
  for (int chunk = threadIdx.x; chunk < kChunks; chunk += kThreads) {
    const int64_t element = tile.begin + chunk * kChunk;
    uint64_t entry = 0;
    if (plane.aligned && element + kChunk <= extent.elements) {
      const Place place = PlaceOf(element, extent);
      if (plane.is_flat) {
        entry = MapEntry(plane.data, element, plane.dtype);
      } else if (place.col + kChunk <= extent.cols) {
        entry = MapEntry(plane.data, place.row * plane.ld + place.col, plane.dtype);
      }
    }
    row[chunk] = entry;
  }
}

// A lane's four elements of a chunk, as they lie in memory. Loads of many chunks are issued before any is widened.
__device__ inline uint4 LoadRaw(uint64_t entry) {
  const int lane = threadIdx.x % 32;
  const char* const data = reinterpret_cast<const char*>(entry & ~uint64_t{7});
  if ((entry & 7) == static_cast<uint64_t>(DType::kFloat32))
    return reinterpret_cast<const uint4*>(data)[lane];
  const uint2 half = reinterpret_cast<const uint2*>(data)[lane];
  return {half.x, half.y, 0, 0};
}
__device__ inline Four AsFloats(uint4 raw) {
  return {__uint_as_float(raw.x), __uint_as_float(raw.y), __uint_as_float(raw.z),
          __uint_as_float(raw.w)};
}
__device__ inline uint4 AsBits(const Four& four) {
  return {__float_as_uint(four.v[0]), __float_as_uint(four.v[1]), __float_as_uint(four.v[2]),
          __float_as_uint(four.v[3])};
}
__device__ inline Four WidenRaw(uint4 raw, DType dtype) {
  return dtype == DType::kFloat32 ? AsFloats(raw) : Widen({raw.x, raw.y}, dtype);
}

// U chunks, kWarps apart, of a tile that lies densely at `data`.
template <int U>
__device__ inline void ReadDense(const char* data, int chunk, DType dtype, Four (&out)[U]) {
  const int lane = threadIdx.x % 32;
  if (dtype == DType::kFloat32) {
    const uint4* const from = reinterpret_cast<const uint4*>(data) + chunk * 32 + lane;
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = AsFloats(from[u * kWarps * 32]);
  } else {
    const uint2* const from = reinterpret_cast<const uint2*>(data) + chunk * 32 + lane;
    uint2 bits[U];
#pragma unroll
    for (int u = 0; u < U; ++u) bits[u] = from[u * kWarps * 32];
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = Widen(bits[u], dtype);
  }
}

__device__ inline Four Sum(Four a, const Four& b) {
#pragma unroll
  for (int j = 0; j < kVector; ++j) a.v[j] += b.v[j];
  return a;
}

// The sum along the balanced binary tree over the index.
template <int kCount>
__device__ inline Four TreeSum(const Four* x) {
  static_assert(kCount <= 4);
  if constexpr (kCount == 1) {
    return x[0];
  } else {
    constexpr int kLeft = kCount > 2 ? 2 : 1;
    return Sum(TreeSum<kLeft>(x), TreeSum<kCount - kLeft>(x + kLeft));
  }
}

// A tile's gradient or parameter.
class TileReader {
 public:
  __device__ TileReader(const Source* sources, SourceRange range, const Extent& extent,
                        const Tile& tile, const MapRow* map = nullptr)
      : sources_(sources), range_(range), extent_(extent), tile_(tile), map_(map) {
    if (map != nullptr || range.replicas > 1 || !tile.full) return;
    for (int i = range.first; i < range.first + range.count; ++i) {
      const Source& source = sources[i];
      if (source.is_flat && source.aligned && source.flat.begin <= tile.begin &&
          source.flat.end >= tile.begin + kTileElements) {
        const int64_t size = source.dtype == DType::kFloat32 ? 4 : 2;
        whole_ = AddressOf(source) + tile.begin * size;
        dtype_ = source.dtype;
        whole_end_ = source.flat.end;
        break;
      }
    }
  }

  __device__ bool is_whole() const { return whole_ != nullptr; }
  // Of a whole tile: where its run begins, what it holds, and the element behind the run.
  __device__ const char* whole() const { return whole_; }
  __device__ DType dtype() const { return dtype_; }
  __device__ int64_t whole_end() const { return whole_end_; }

  // Whether kMapped can do round `round` of U groups.
  template <int U>
  __device__ bool IsMapped(int round) const {
    if (!range_.in_order || range_.replicas > kMapReplicas) return false;
    bool mapped = true;
    for (int r = 0; r < range_.replicas; ++r) {
#pragma unroll
      for (int u = 0; u < U; ++u) mapped &= map_[r][ChunkOf(round, U) + u * kWarps] != 0;
    }
    return mapped;
  }

  // A thread's U groups of round `round`; elements past the tensor's end read as zero. kWhole promises is_whole(), kMapped
  // IsMapped<U>(round); kSlow takes one group.
  template <Way kWay, int U>
  __device__ void Read(int round, Four (&out)[U]) const {
    const int chunk = ChunkOf(round, U);
    if constexpr (kWay == Way::kWhole) {
      ReadDense(whole_, chunk, dtype_, out);
    } else if constexpr (kWay == Way::kMapped) {
      switch (range_.replicas) {
        case 1:
          return ReadParts<1, U>(chunk, out);
        case 2:
          return ReadParts<2, U / 2>(chunk, out);
        case 3:
          return ReadParts<3, 1>(chunk, out);
        case 4:
          return ReadParts<4, 1>(chunk, out);
        case 5:
          return ReadParts<5, 1>(chunk, out);
        case 6:
          return ReadParts<6, 1>(chunk, out);
        case 7:
          return ReadParts<7, 1>(chunk, out);
        default:
          return ReadParts<8, 1>(chunk, out);
      }
    } else {
      static_assert(U == 1);
      const int64_t element = ElementOf(tile_, chunk), left = extent_.elements - element;
      out[0] = {};
      if (left > 0)
        out[0] = Gather(sources_, range_, extent_, element, left < kVector ? int(left) : kVector);
    }
  }

 private:
  // The sum of replicas [first, first + R) of U groups. Up to four replicas' loads are on their way together.
  template <int R, int U>
  __device__ void ReadMapped(int first, int first_chunk, Four* out) const {
    if constexpr (R > 4) {
      Four right[U];
      ReadMapped<4, U>(first, first_chunk, out);
      ReadMapped<R - 4, U>(first + 4, first_chunk, right);
#pragma unroll
      for (int u = 0; u < U; ++u) out[u] = Sum(out[u], right[u]);
    } else {
      uint4 raw[U][R];
#pragma unroll
      for (int u = 0; u < U; ++u) {
#pragma unroll
        for (int r = 0; r < R; ++r) raw[u][r] = LoadRaw(map_[first + r][first_chunk + u * kWarps]);
      }
#pragma unroll
      for (int u = 0; u < U; ++u) {
        Four x[R];
#pragma unroll
        for (int r = 0; r < R; ++r) {
          const uint64_t entry = map_[first + r][first_chunk + u * kWarps];
          x[r] = WidenRaw(raw[u][r], static_cast<DType>(entry & 7));
        }
        out[u] = TreeSum<R>(x);
      }
    }
  }

  template <int R, int P, int U>
  __device__ void ReadParts(int chunk, Four (&out)[U]) const {
#pragma unroll
    for (int u = 0; u < U; u += P) ReadMapped<R, P>(0, chunk + u * kWarps, out + u);
  }

  const Source* sources_;
  SourceRange range_;
  const Extent& extent_;
  const Tile& tile_;
  const MapRow* map_;
  const char* whole_ = nullptr;
  DType dtype_ = DType::kFloat32;
  int64_t whole_end_ = 0;
};

// A strided matrix as a tile reads or writes it. `row` is its map, where the tile is not whole.
class TilePlane {
 public:
  __device__ TilePlane(const Plane& plane, const Extent& extent, const Tile& tile,
                       const MapRow* row = nullptr)
      : plane_(plane), extent_(extent), tile_(tile), row_(row) {}

  template <int U>
  __device__ bool IsMapped(int round) const {
    bool mapped = true;
#pragma unroll
    for (int u = 0; u < U; ++u) mapped &= Entry(ChunkOf(round, U) + u * kWarps) != 0;
    return mapped;
  }

  // As TileReader's.
  template <Way kWay, int U>
  __device__ void Read(int round, Four (&out)[U]) const {
    const int chunk = ChunkOf(round, U);
    if constexpr (kWay == Way::kWhole) {
      ReadDense(Begin(), chunk, plane_.dtype, out);
    } else if constexpr (kWay == Way::kMapped) {
      uint4 raw[U];
#pragma unroll
      for (int u = 0; u < U; ++u) raw[u] = LoadRaw(Entry(chunk + u * kWarps));
#pragma unroll
      for (int u = 0; u < U; ++u) out[u] = WidenRaw(raw[u], plane_.dtype);
    } else {
      static_assert(U == 1);
      out[0] = ReadPlaneSlowly(plane_, extent_, ElementOf(tile_, chunk));
    }
  }

  template <Way kWay>
  __device__ void Write(int chunk, const Four& value) const {
    const int lane = threadIdx.x % 32;
    if constexpr (kWay == Way::kWhole) {
      WriteFour(Begin(), chunk * kChunk + lane * kVector, plane_.dtype, value);
    } else if constexpr (kWay == Way::kMapped) {
      WriteFour(reinterpret_cast<char*>(Entry(chunk) & ~uint64_t{7}), lane * kVector, plane_.dtype,
                value);
    } else {
      WritePlaneSlowly(plane_, extent_, ElementOf(tile_, chunk), value);
    }
  }

 private:
  __device__ char* Begin() const {
    return plane_.data + tile_.begin * (plane_.dtype == DType::kFloat32 ? 4 : 2);
  }
  __device__ uint64_t Entry(int chunk) const {
    if (row_ != nullptr) return (*row_)[chunk];
    const int64_t element = tile_.begin + chunk * kChunk;
    // Dense and aligned: only the tensor's end matters.
    return IsWhole(plane_) && element + kChunk <= extent_.elements
               ? MapEntry(plane_.data, element, plane_.dtype)
               : 0;
  }

  const Plane& plane_;
  const Extent& extent_;
  const Tile& tile_;
  const MapRow* row_;
};

// A sum and a maximum (of non-negative values) over the CTA along a fixed tree; the results are thread 0's.
struct SumAndMaximum {
  double sum = 0;
  float maximum = 0;
};
__device__ inline SumAndMaximum BlockReduce(SumAndMaximum value) {
  __shared__ double sums[kWarps];
  __shared__ uint32_t maxima[kWarps];
  for (int offset = 16; offset > 0; offset /= 2)
    value.sum += __shfl_down_sync(~0u, value.sum, offset);
  const uint32_t maximum = __reduce_max_sync(~0u, __float_as_uint(value.maximum));
  if (threadIdx.x % 32 == 0) {
    sums[threadIdx.x / 32] = value.sum;
    maxima[threadIdx.x / 32] = maximum;
  }
  __syncthreads();
  if (threadIdx.x >= 32) return value;
  value.sum = threadIdx.x < kWarps ? sums[threadIdx.x] : 0;
  for (int offset = kWarps / 2; offset > 0; offset /= 2)
    value.sum += __shfl_down_sync(~0u, value.sum, offset);
  value.maximum =
      __uint_as_float(__reduce_max_sync(~0u, threadIdx.x < kWarps ? maxima[threadIdx.x] : 0));
  return value;
}

// The item that the launch's tile `tile` belongs to: the last one that starts at or before it.
template <class Item>
__device__ inline const Item& FindItem(const Item* items, int count, int tile) {
  int low = 0;
  while (count > 1) {
    const int half = count / 2;
    if (items[low + half].extent.launch_tile <= tile) {
      low += half;
      count -= half;
    } else {
      count = half;
    }
  }
  return items[low];
}

}  // namespace muond::elementwise
