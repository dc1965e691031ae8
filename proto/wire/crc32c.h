// CRC-32C (Castagnoli, polynomial 0x1EDC6F41 reflected, start and final xor 0xffffffff): the
// checksum of a frame. Threads: any.   Uses the SSE4.2 instruction where the processor has it, a
// table otherwise; both give equal values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace muond {

uint32_t Crc32c(std::span<const std::byte> bytes);

// The table alone, so that a test can compare the two ways.
uint32_t Crc32cByTable(std::span<const std::byte> bytes);

}  // namespace muond
