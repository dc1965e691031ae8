// A model that is not running, as a list of its matrices. CSV: lines that start with '#' and empty lines are comments;
// the first other line is the header "name,rows,cols,count"; then one row a kind of matrix.
// Threads: plain values.   Errors: INVALID_ARGUMENT naming the file, the line and what was wrong with it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/types/manifest.h"

namespace muond {

struct ModelRow {
  std::string name;
  int64_t rows = 0, cols = 0, count = 0;
};

// `source` is the name for errors. At least one row; at most kItemsMax matrices in all.
absl::StatusOr<std::vector<ModelRow>> ParseModelList(std::string_view text,
                                                     std::string_view source);
// NOT_FOUND, PERMISSION_DENIED and the like for a file that cannot be read; at most 64 MiB.
absl::StatusOr<std::vector<ModelRow>> ReadModelList(const std::string& path);

// One muon tensor a matrix, in the order of the list; bf16 gradients and parameters, the default table.
Manifest ManifestOf(const std::vector<ModelRow>& list);

}  // namespace muond
