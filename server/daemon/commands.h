// DaemonCommands: what the gRPC door asks of the StepLoop. Plain values in, callbacks out; protobuf
// stays in daemon_service.cc.
//
// Threads: any thread may call; a call posts and returns at once. Each callback runs exactly once,
// on the StepLoop's thread
//          (or on the caller's, when the loop has stopped: UNAVAILABLE), and must not block.
// Errors:  canonical codes with the numbers in the message; the door hands message and code on as
// they are, except
//          INTERNAL and UNKNOWN, whose text it logs and replaces.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/observe/status_report.h"

namespace muond {

struct Manifest;  // proto/types
struct RankManifest;
struct Plan;

template <typename T>
using Done = absl::AnyInvocable<void(absl::StatusOr<T>)>;

enum class ResumeMode : uint8_t { kFresh = 0, kAdopt = 1 };

struct JoinCommand {
  uint64_t ticket = 0;  // minted by the door: names this call for CancelJoin
  std::shared_ptr<const Manifest> manifest;
  std::shared_ptr<const RankManifest> rank;
  ResumeMode resume = ResumeMode::kFresh;
  std::string token;
  uint64_t seat = 0, attempt = 0;  // as in JoinCall
  absl::Time
      deadline;  // the loop answers DEADLINE_EXCEEDED, naming the missing ranks, when it passes
};
struct Joined {
  uint64_t job_id = 0;
  uint64_t session = 0;
  uint32_t incarnation = 0;
  uint64_t epoch = 0;
  uint64_t last_step = 0;
};

struct PlacedBlock {
  int32_t block = 0;  // index into RankManifest::shards
  uint64_t gradient_offset = 0;
  uint64_t parameter_offset = 0;
  bool push_gradient = true;
};
struct PlannedBucket {
  std::vector<int32_t> tensors;
  std::vector<int32_t> items;
};
// The two sockets are the shell's to tell: the door adds them.
struct Attached {
  uint64_t gradient_slab_bytes = 0;
  uint64_t parameter_slab_bytes = 0;
  uint64_t page_bytes = 0;
  std::vector<PlacedBlock> blocks;
  std::vector<PlannedBucket> buckets;
  int32_t items = 0;
  uint64_t epoch = 0;
  int32_t page_blocks_max = 0;  // PageShape::blocks_max
};

enum class StateName : uint8_t {
  kMomentum = 1,
  kExpAvg = 2,
  kExpAvgSq = 3,
  kStep = 4,
  kParameter = 5
};  // as StateField
inline constexpr uint64_t kStatePieceBytesMax = uint64_t{1} << 20;

struct ReadStateCommand {
  uint64_t session = 0;
  int32_t tensor = 0;
  StateName field = StateName::kMomentum;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes_max = kStatePieceBytesMax;
};
struct StatePiece {
  uint64_t step =
      0;  // all pieces of one fetch must be of one step: the door answers ABORTED otherwise
  uint64_t total_bytes = 0;  // of this tensor's field
  std::string data;          // from offset_bytes; empty at the end
};
struct WriteStateCommand {
  uint64_t session = 0;
  int32_t tensor = 0;
  StateName field = StateName::kMomentum;
  uint64_t offset_bytes = 0;
  std::string data;
};

struct SnapshotCommand {
  uint64_t session = 0;  // or the job by name
  std::string job;
  std::string directory;
};
struct SnapshotTaken {
  uint64_t step = 0;
  std::string manifest_path;
  uint64_t bytes = 0;
};

class DaemonCommands {
 public:
  virtual ~DaemonCommands() = default;
  // Calls back when every rank of the job has joined. A repeat with the same seat takes the place of the call before it, which is
  // answered ABORTED, or gets the answer that was given already.
  virtual void Join(JoinCommand command, Done<Joined> done) = 0;
  // The caller went away: its pending Join is answered CANCELLED. An answered or unknown ticket is
  // ignored.
  virtual void CancelJoin(uint64_t ticket) = 0;
  virtual void Attach(uint64_t session, Done<Attached> done) = 0;
  virtual void Detach(uint64_t session, Done<std::monostate> done) = 0;
  virtual void GetPlan(uint64_t job_id, uint64_t epoch, Done<std::shared_ptr<const Plan>> done) = 0;
  virtual void ReadState(ReadStateCommand command, Done<StatePiece> done) = 0;
  virtual void WriteState(WriteStateCommand command, Done<std::monostate> done) = 0;
  virtual void Snapshot(SnapshotCommand command, Done<SnapshotTaken> done) = 0;
  // New jobs are refused from now on; calls back with the jobs that are left when none is, or at
  // the deadline.
  virtual void Drain(absl::Time deadline, Done<int32_t> done) = 0;
  // Devices, jobs, draining; the shell fills in what it knows itself (pids, endpoints, version,
  // uptime).
  virtual void Status(Done<StatusReport> done) = 0;
};

}  // namespace muond
