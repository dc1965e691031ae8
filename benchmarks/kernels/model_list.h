// The matrices of a model, from a list in benchmarks/data: "name,rows,cols,count" lines, a header and "#"
// comments; name and count (1) may be left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace muond::bench {

struct ModelShape {
  std::string name;
  int64_t rows = 0, cols = 0, count = 0;
};

// INVALID_ARGUMENT names the line; NOT_FOUND the file.
absl::StatusOr<std::vector<ModelShape>> ReadModelList(const std::string& path);

}  // namespace muond::bench
