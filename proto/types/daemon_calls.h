// What is asked of a daemon and answered by it: the plain values behind
// proto/muond/v1/daemon.proto. Threads: plain values.   Units: bytes and milliseconds where the
// name says so; steps start at 1.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/types/manifest.h"
#include "proto/types/plan.h"
#include "proto/types/version.h"

namespace muond {

enum class Resume : uint8_t { kFresh = 0, kAdopt = 1 };

struct JoinCall {
  ProtocolVersion version;
  Manifest manifest;
  RankManifest rank;
  Resume resume = Resume::kFresh;
  std::string token;
  uint64_t seat = 0;  // of this rank: the same in every repeat of this join; 0: it is not repeated
  uint64_t attempt = 0;  // of all ranks: another one each time they try; 0: not known
  uint32_t wait_ms = 0;  // for the other ranks; 0: until the call's deadline
};
struct JoinReply {
  ProtocolVersion version;
  uint64_t job = 0, session = 0;
  uint32_t incarnation = 0;
  uint64_t epoch = 0;
  uint64_t last_step = 0;  // newest step with a verdict; 0 for a fresh job
};

// Where a shard of the rank lies in its slabs.
struct ShardPlace {
  int32_t shard = 0;                                   // index into RankManifest::shards
  uint64_t gradient_offset = 0, parameter_offset = 0;  // bytes
  bool push_gradient = true;  // false: another replica is read, only this one's digest is wanted
};
struct BucketPlan {
  std::vector<int32_t> tensors;
  std::vector<int32_t> items;  // the bucket's parameters are new when all of these are ready
};
struct AttachReply {
  std::string keeper_socket, frame_socket;
  uint64_t gradient_slab_bytes = 0, parameter_slab_bytes = 0, page_bytes = 0;
  std::vector<ShardPlace> shards;
  std::vector<BucketPlan> buckets;
  int32_t items = 0;
  uint64_t epoch = 0;
  int32_t page_blocks_max = 0;
};

enum class StateField : uint8_t {
  kMomentum = 1,
  kExpAvg = 2,
  kExpAvgSq = 3,
  kStep = 4,
  kParameter = 5
};

struct FetchStateCall {
  uint64_t session = 0;
  std::vector<int32_t> tensors;
  std::vector<StateField> fields;
};
// A piece of one (tensor, field), in order of offset; at most kStateChunkBytesMax of data.
struct StateChunk {
  uint64_t session = 0;  // in the first chunk of a push
  int32_t tensor = 0;
  StateField field = StateField::kMomentum;
  uint64_t offset_bytes = 0;
  std::string data;
};

struct SnapshotCall {
  uint64_t session = 0;  // or:
  std::string job;       // by name
  std::string directory;
};
struct SnapshotReply {
  uint64_t step = 0;
  std::string manifest_path;
  uint64_t size_bytes = 0;
};

struct RankStatus {
  int32_t rank = 0, pid = 0;
  std::string state;  // "joined", "attached", "gone"
};
struct PhaseStatus {
  std::string phase;
  double seconds_median = 0, seconds_last = 0;
};
struct JobStatus {
  uint64_t job = 0;
  std::string name;
  uint32_t incarnation = 0;
  uint64_t epoch = 0, step = 0;  // step: the newest finished
  int64_t matrices = 0, items = 0;
  uint64_t parameters = 0;
  std::vector<RankStatus> ranks;
  std::vector<PhaseStatus> phases;
  uint64_t state_bytes = 0, slab_bytes = 0;
  std::string state;       // "joining", "running", "orphaned"
  uint64_t void_step = 0;  // newest step that was refused; 0: none
  std::string void_text;   // why
};
struct DeviceStatus {
  DeviceSpec device;
  uint64_t owned_bytes = 0;
  int64_t items = 0;
  double cost_seconds = 0, busy_share = 0;
};
struct DaemonStatus {
  ProtocolVersion version;
  int32_t keeper_pid = 0, stepper_pid = 0;
  std::string endpoint, daemon;
  std::vector<DeviceStatus> devices;
  std::vector<JobStatus> jobs;
  uint32_t stepper_starts = 0;
  bool draining = false;
  std::string metrics_endpoint;
  uint64_t uptime_ms = 0;
  std::string coordinator;
  uint64_t coordinator_silence_ms = 0;  // since it last answered
};

}  // namespace muond
