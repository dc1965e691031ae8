#include "kernels/runtime/cpu/machine.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace muond {
namespace {

// The value of the first "key : value" line of /proc/cpuinfo, or "".
std::string CpuInfo(absl::string_view key) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    if (absl::StripAsciiWhitespace(absl::string_view(line).substr(0, colon)) != key) continue;
    return std::string(absl::StripAsciiWhitespace(absl::string_view(line).substr(colon + 1)));
  }
  return "";
}

// A limit file holds a number or "max".
uint64_t ReadLimit(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  uint64_t value = 0;
  if (file >> text && absl::SimpleAtoi(text, &value)) return value;
  return UINT64_MAX;
}

// The limits of every control group from this process's own up to the root (version 2, then version 1).
uint64_t ControlGroupLimit() {
  uint64_t limit = ReadLimit("/sys/fs/cgroup/memory/memory.limit_in_bytes");
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    absl::string_view group = line;
    if (!absl::ConsumePrefix(&group, "0::")) continue;
    std::string path(group);
    while (true) {
      limit = std::min(limit, ReadLimit(absl::StrCat("/sys/fs/cgroup", path, "/memory.max")));
      if (path.size() <= 1) break;
      path.resize(path.rfind('/'));
    }
    limit = std::min(limit, ReadLimit("/sys/fs/cgroup/memory.max"));
  }
  return limit;
}

}  // namespace

std::string CpuArchitecture() {
#if defined(__x86_64__)
  const char* width = __builtin_cpu_supports("avx512f") ? "avx512"
                      : __builtin_cpu_supports("avx2")  ? "avx2"
                                                        : "x86-64";
#else
  const char* width = "generic";
#endif
  const std::string family = CpuInfo("cpu family");
  const std::string model = CpuInfo("model");
  if (family.empty() || model.empty()) return absl::StrCat("cpu-", width);
  return absl::StrCat("cpu-", width, "-", family, ".", model);
}

std::string CpuName() {
  const std::string name = CpuInfo("model name");
  return name.empty() ? "unknown CPU" : name;
}

uint64_t MachineMemoryBytes() {
  const uint64_t physical =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return std::min(physical, ControlGroupLimit());
}

}  // namespace muond
