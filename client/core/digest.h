// Digest: 64 bits over bytes, by which replicas of a gradient are compared before it is used.
// Position-sensitive: a swapped pair of words, a shifted block and a changed length all change it.
// Not cryptographic: it finds ranks that disagree, it keeps out nobody.
//
// 8 lanes of 64 bits run over stripes of 64 bytes. In stripe t lane i takes d (little-endian) and k
// = key[i] + t * step:
//   x = d ^ k;  acc[i] += (x mod 2^32) * (x / 2^32);  acc[i ^ 1] += d rotated left by 23
// and after every 16 stripes acc[i] = (acc[i] ^ acc[i] >> 29 ^ key[i]) * prime. The last stripe is
// padded with zeros; the length and the lanes are folded into 64 bits at the end. Only integers:
// every build for little-endian machines gives the same value.
// Threads: plain values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace muond {

uint64_t Digest(const void* data, size_t size_bytes);

// Copies and digests in one pass over the source: 16 KiB pieces, so that the second look finds them
// in the cache. The ranges must not overlap.
uint64_t CopyAndDigest(void* to, const void* from, size_t size_bytes);

}  // namespace muond
