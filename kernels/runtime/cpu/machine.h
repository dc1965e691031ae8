// What the machine is: read once from the operating system and the processor.
#pragma once

#include <cstdint>
#include <string>

namespace muond {

// The vector width that fixes which kernels run: "cpu-avx512", "cpu-avx2" or "cpu-x86-64". OpenBLAS picks its
// own kernels by the processor's model, so the model is part of the answer: "cpu-avx2-25.17" (family.model).
std::string CpuArchitecture();

// The processor's marketing name, "unknown CPU" where the system does not say.
std::string CpuName();

// Bytes that this process may use: the machine's memory, or the tightest control-group limit above it.
uint64_t MachineMemoryBytes();

}  // namespace muond
