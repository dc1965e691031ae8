// What is asked of the coordinator and answered by it: the plain values behind
// proto/muond/v1/coordinator.proto. Threads: plain values.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/types/manifest.h"
#include "proto/types/members.h"
#include "proto/types/plan.h"
#include "proto/types/version.h"

namespace muond {

struct RegisterCall {
  ProtocolVersion version;
  std::string endpoint;
  std::vector<DeviceSpec> devices;
  std::string daemon;  // empty at first; a restarted stepper names its old id
  // The jobs whose state the daemon holds: the coordinator ends its others. Empty optional: not said.
  std::optional<std::vector<uint64_t>> held;
};
struct RegisterReply {
  ProtocolVersion version;
  std::string daemon;  // minted, random
  uint32_t lease_ms = 0;
};

struct HeartbeatCall {
  std::string daemon;
  std::vector<DeviceSpec> devices;  // free bytes now
  bool draining = false;
};
struct HeartbeatReply {
  uint64_t newest_epoch = 0;
};

struct CreateJobCall {
  std::string daemon;
  Manifest manifest;
  std::vector<RankManifest> ranks;
  bool adopt = false;        // the daemon holds this job's state from an earlier incarnation
  uint64_t job = 0;          // adopt only
  uint32_t incarnation = 0;  // adopt only: the newest that the daemon knows
};
struct CreateJobReply {
  uint64_t job = 0;  // minted, random, never 0
  uint32_t incarnation = 0;
  Plan plan;
};

struct OfferCall {
  std::string daemon;
  uint64_t offer = 0;         // names this wait
  std::string shard_address;  // where the other daemons reach this one
  // Empty: all as before.
  std::optional<Manifest> manifest;
  std::vector<RankManifest> ranks;
};
struct OfferReply {
  bool complete = false;  // else the rest is empty
  CreateJobReply job;
  std::vector<RankManifest> ranks;  // of the whole world, by rank
  JobMembers members;
};

struct DaemonEntry {
  std::string daemon, endpoint, build;
  std::vector<DeviceSpec> devices;
  uint64_t heartbeat_age_ms = 0;
  bool draining = false;
};
struct JobEntry {
  uint64_t job = 0;
  std::string name;
  uint32_t incarnation = 0;
  uint64_t epoch = 0;
  int32_t world_size = 0;
  int64_t items = 0;
  std::string daemon;
  bool orphaned = false;  // its daemon has lost its lease
  double imbalance = 0;   // of its plan; 0: not said
};
struct ClusterStatus {
  ProtocolVersion version;
  std::vector<DaemonEntry> daemons;
  std::vector<JobEntry> jobs;
  std::string coordinator;  // the endpoint of the one that leads; empty: it does not say
};

}  // namespace muond
