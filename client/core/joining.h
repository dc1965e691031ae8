// Joining: a rank's Join and Attach at a daemon, put again where a stepper dies between them or the connection breaks. The rank's
// seat is the same in every repeat, so that an answer that was lost is given again.
// A successor knows a job from its first Attach on, and nothing of a join before it: then all ranks join again.
// Threads: blocks the caller until every rank of the job has come.
#pragma once

#include "absl/status/statusor.h"
#include "client/core/client.h"
#include "proto/types/daemon_calls.h"

namespace muond {

struct Joined {
  JoinReply reply;
  AttachReply layout;
};

// UNAVAILABLE at once where no daemon is; where its keeper lives, after some seconds of restarts.
absl::StatusOr<Joined> JoinDaemon(const AttachOptions& options, const Manifest& manifest,
                                  const RankManifest& rank);

}  // namespace muond
