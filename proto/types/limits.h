// Limits of every count and size that a peer may name. They are checked before anything is
// allocated, on both sides of a connection; a message that passes them costs bounded memory. A
// limit that is met in practice is a reason to raise it here, never to skip the check.
#pragma once

#include <cstdint>

namespace muond {

// A job.
inline constexpr int64_t kRanksMax = 16'384;
inline constexpr int64_t kTensorsMax = int64_t{1} << 20;
inline constexpr int64_t kGroupsMax = 1'024;
inline constexpr int64_t kBucketsMax = 65'536;
inline constexpr int64_t kItemsMax = int64_t{1} << 20;
inline constexpr int64_t kSegmentsMax = int64_t{1} << 22;  // of all items of a plan
inline constexpr int64_t kJobElementsMax =
    (int64_t{1} << 40) - 1;  // of all tensors: 40 bits, 4 TiB of fp32
inline constexpr int64_t kJobNameBytesMax = 128;

// A tensor.
inline constexpr int64_t kDimsMax = 8;
inline constexpr int64_t kTensorElementsMax = int64_t{1} << 36;
inline constexpr int64_t kMatricesPerTensorMax = 65'536;
inline constexpr int64_t kTensorNameBytesMax = 512;

// A group.
inline constexpr int64_t kNewtonSchulzStepsMax = 99;  // torch.optim.Muon refuses 100 and more
inline constexpr int64_t kGroupNameBytesMax = 128;

// A rank's shards.
inline constexpr int64_t kBlocksPerRankMax = int64_t{1} << 21;
inline constexpr int64_t kBlocksPerJobMax = int64_t{1} << 24;
inline constexpr int64_t kRectanglesPerBlockMax = 65'536;

// A cluster.
inline constexpr int64_t kDaemonsMax = 16'384;
inline constexpr int64_t kDevicesPerDaemonMax = 256;
inline constexpr int64_t kDevicesMax = 65'536;
inline constexpr int64_t kJobsMax = 4'096;
inline constexpr uint64_t kEpochMax = 0xffff'fffe;  // frames carry 32 bits of it

// Messages and pages.
inline constexpr int64_t kMessageBytesMax = int64_t{256} << 20;
inline constexpr int64_t kStateChunkBytesMax = int64_t{1} << 20;
inline constexpr uint64_t kPageBytesMax = uint64_t{8} << 30;
inline constexpr uint64_t kSlabBytesMax = uint64_t{1} << 44;
inline constexpr int64_t kTextBytesMax = 4'096;  // endpoints, paths, tokens, reasons, device names

// Linux's sockaddr_un holds 108 bytes with the terminator.
inline constexpr int64_t kSocketPathBytesMax = 107;

}  // namespace muond
