// top: the cluster (or one daemon) again and again. TopText is pure: a sample and the one before it to text; RunTop asks,
// prints and waits.
// Threads: one.   Units: seconds.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/stubs/stub_options.h"
#include "proto/types/coordinator_calls.h"
#include "proto/types/daemon_calls.h"

namespace muond {

struct TopDaemon {
  std::string endpoint;
  absl::Status reached;  // from here: another node's Unix socket cannot be
  DaemonStatus status;   // when it was
};

struct TopSample {
  absl::Time at;
  absl::Status asked;                    // what the endpoint answered, where neither is there
  std::optional<ClusterStatus> cluster;  // where a coordinator answers
  std::vector<TopDaemon> daemons;        // of the cluster, or the one daemon that was asked
};

// Steps a second come from `before`; null: "-".
std::string TopText(const TopSample& now, const TopSample* before);

// Asks the endpoint for the cluster, and each of its daemons for its jobs.
TopSample TakeTopSample(const std::string& endpoint, const StubOptions& options, absl::Time now);

struct TopOptions {
  absl::Duration interval = absl::Seconds(2);
  int count = 0;       // samples; 0: until it is interrupted
  bool clear = false;  // the screen before each: a terminal
};
// The last sample's status: not OK when nobody answered.
absl::Status RunTop(const std::string& endpoint, const StubOptions& options, const TopOptions& top);

}  // namespace muond
