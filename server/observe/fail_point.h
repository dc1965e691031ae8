// Fail points: named places where a test lets this process die, as kill -9 would. Off unless
// configured.
// `--fail-point NAME:COUNT` (or MUOND_FAIL_POINT): the COUNT-th passage of NAME ends the process
// with SIGKILL, in the first stepper only (a restarted one ignores it, or nothing would ever go
// on). Threads: any; when off, a passage is one relaxed load.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace muond {

// INVALID_ARGUMENT unless "name:count", count >= 1. An empty string switches fail points off.
absl::Status ConfigureFailPoint(const std::string& name_and_count);
void FailPoint(std::string_view name);

}  // namespace muond
