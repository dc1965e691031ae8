// Fail points: named places where a test lets this process die, as kill -9 would. Off unless configured; server/daemon
// configures them in one stepper only (a restarted one ignores them, or nothing would ever go on).
// Threads: any; when off, a passage is one load.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace muond {

// "NAME:COUNT": the COUNT-th passage of NAME ends the process with SIGKILL. An empty string switches fail points off.
// INVALID_ARGUMENT unless COUNT is a whole number from 1.
absl::Status ConfigureFailPoint(const std::string& name_and_count);
void FailPoint(std::string_view name);

}  // namespace muond
