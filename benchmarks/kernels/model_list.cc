#include "benchmarks/kernels/model_list.h"

#include <cstdio>
#include <fstream>

#include "absl/strings/str_format.h"

namespace muond::bench {

absl::StatusOr<std::vector<ModelShape>> ReadModelList(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrFormat("no model list at %s", path));
  std::vector<ModelShape> shapes;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.empty() || line[0] == '#' || line.rfind("name,", 0) == 0) continue;
    const size_t comma = line.find(',');
    ModelShape shape;
    long long rows = 0, cols = 0, count = 0;
    if (comma == std::string::npos ||
        std::sscanf(line.c_str() + comma, ",%lld,%lld,%lld", &rows, &cols, &count) != 3 ||
        rows < 1 || cols < 1 || count < 1) {
      return absl::InvalidArgumentError(absl::StrFormat("%s:%d: '%s'", path, number, line));
    }
    shapes.push_back({line.substr(0, comma), rows, cols, count});
  }
  return shapes;
}

}  // namespace muond::bench
