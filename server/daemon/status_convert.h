// StatusReport (what the daemon's rooms fill in) as the protocol's DaemonStatus.
#pragma once

#include "proto/types/daemon_calls.h"
#include "server/observe/status_report.h"

namespace muond {

DaemonStatus ToDaemonStatus(const StatusReport& report);

}  // namespace muond
