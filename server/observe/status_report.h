// StatusReport: what the daemon knows of itself at one instant, as plain values. The StepLoop fills
// it; the gRPC door, /status and muonctl show it. Units: bytes, seconds, milliseconds as named; a
// step is the newest finished one, 0 before the first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace muond {

struct PhaseReport {
  std::string
      phase;  // measure, verdict, gather, execute, apply, scatter, step: bounded, see metrics.h
  double seconds_median = 0;
  double seconds_last = 0;
};

enum class RankState : uint8_t { kJoined = 1, kAttached = 2, kGone = 3 };
struct RankReport {
  int32_t rank = 0;
  int32_t pid = 0;  // 0 until its first connection is seen
  RankState state = RankState::kJoined;
  double heartbeat_age_seconds = 0;  // since the last frame of this rank
};

enum class JobState : uint8_t { kJoining = 1, kRunning = 2, kOrphaned = 3 };
struct JobReport {
  uint64_t job_id = 0;
  std::string name;
  uint32_t incarnation = 0;
  uint64_t epoch = 0;
  uint64_t step = 0;
  int64_t matrices = 0;  // Muon matrices
  int64_t items = 0;
  uint64_t parameters = 0;
  uint64_t state_bytes = 0;
  uint64_t slab_bytes = 0;
  JobState state = JobState::kJoining;
  uint64_t void_step = 0;  // newest step that was refused; 0: none
  std::string void_text;   // why: which tensor or setting, and how much
  std::vector<RankReport> ranks;
  std::vector<PhaseReport> phases;
};

struct DeviceReport {
  int32_t ordinal = 0;
  std::string uuid;
  std::string name;
  std::string architecture;
  uint64_t memory_bytes = 0;
  uint64_t memory_free_bytes = 0;
  uint64_t owned_bytes = 0;
  int64_t items = 0;
  double cost_seconds = 0;
  double busy_share = 0;  // of the last minute, 0 to 1
};

struct StatusReport {
  std::string version;
  int32_t keeper_pid = 0;
  int32_t stepper_pid = 0;
  uint32_t stepper_starts = 1;  // 1 plus the restarts that the keeper made
  std::string endpoint;
  std::string metrics_endpoint;
  std::string daemon;       // its id with the coordinator
  std::string coordinator;  // "embedded", or where it is
  double coordinator_heartbeat_age_seconds = 0;
  double uptime_seconds = 0;
  bool draining = false;
  std::vector<DeviceReport> devices;
  std::vector<JobReport> jobs;
};

const char* Name(RankState state);  // "joined", "attached", "gone"
const char* Name(JobState state);   // "joining", "running", "orphaned"

}  // namespace muond
