// The stepper's process shell: it makes the concrete backend, carrier, plan source and doors, joins them to the StepLoop,
// and runs until the keeper says drain. What it inherits: server/keeper/stepper_process.h.
#pragma once

#include "server/daemon/config.h"

namespace muond {

// The process's exit code: 0 drained; 1 cannot start (the log says why); 4 drained in vain, jobs were left.
int RunStepper(const Config& config);

}  // namespace muond
