// Feed: series that are a view of the StatusReport, set anew at each scrape. What happens between two scrapes is counted where
// it happens; what is the case now is read here, so that no room has to remember to say it.
// Threads: any.
#pragma once

#include <optional>

#include "server/observe/metrics.h"
#include "server/observe/status_report.h"

namespace muond {

// Jobs, sessions by state, silence of ranks, orphaned jobs, the devices' memory and balance. Without a report the loop did not answer: then
// muond_loop_answers is 0 and the rest keeps what it was.
void Feed(const std::optional<StatusReport>& report, Metrics* metrics);

}  // namespace muond
