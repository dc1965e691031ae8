// The status page: a StatusReport for people (HTML, the river's phases as bars) and for programs (JSON).
// Names that came from outside are escaped; no scripts. Threads: pure functions.
#pragma once

#include <string>

#include "server/observe/status_report.h"

namespace muond {

std::string StatusHtml(const StatusReport& report);
std::string StatusJson(const StatusReport& report);

}  // namespace muond
