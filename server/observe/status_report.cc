#include "server/observe/status_report.h"

namespace muond {

const char* Name(RankState state) {
  switch (state) {
    case RankState::kJoined:
      return "joined";
    case RankState::kAttached:
      return "attached";
    case RankState::kGone:
      return "gone";
  }
  return "unknown";
}

const char* Name(JobState state) {
  switch (state) {
    case JobState::kJoining:
      return "joining";
    case JobState::kRunning:
      return "running";
    case JobState::kOrphaned:
      return "orphaned";
  }
  return "unknown";
}

}  // namespace muond
