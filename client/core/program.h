// Where the muond binary is. The client's one look at the environment.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace muond {

// `named` when not empty; else MUOND_BIN; else `muond` in bin/ beside this library (the Python
// package), in ../bin (an installation), in ../../bin or ../../server/daemon (a build tree); else
// on PATH. NOT_FOUND names every place that was looked at.
absl::StatusOr<std::string> FindProgram(const std::string& named);

}  // namespace muond
