// Snapshot: a job's state, counts and parameters at a step boundary, as safetensors files and a manifest. Free of topology:
// whole tensors by name, loadable with any number of ranks, daemons and owners.
//
//   DIRECTORY/step-N.safetensors     tensors "<name>", "<name>.momentum_buffer", "<name>.exp_avg", "<name>.exp_avg_sq",
//                                    "<name>.step" (one F64)
//   DIRECTORY/step-N.json            the manifest, written last: {"job", "step", "file", "bytes", "tensors"}
// Every file is written under a temporary name, fsynced, renamed, and its directory fsynced: a manifest that is there names
// a file that is whole.
// Threads: the StepLoop, between steps; blocks it while it writes.
// Errors: NOT_FOUND for a directory that is not there, UNAVAILABLE with errno's text; a failed snapshot leaves no manifest.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/daemon/commands.h"
#include "server/daemon/job.h"

namespace muond {

absl::StatusOr<SnapshotTaken> WriteSnapshot(Job& job, std::vector<DeviceRoom>& devices,
                                            const std::string& directory);

}  // namespace muond
