// Client: a rank's side of a job. It puts gradients where the daemon finds them, hands steps over,
// and waits for them.
// Put* -> Announce* -> Commit -> Wait, once per step; the parameters are then new in the parameter
// slab.
// A rank on a GPU works in stream order: after UseStream, what Put, Announce and WaitOnStream do comes behind what the stream holds,
// the calls return at once, and Wait is made before the next step's first Put.
// Threads: one at a time, the caller's; in the background runs nothing but, for a rank on a GPU, job_watch.h.
// Errors:  INVALID_ARGUMENT and FAILED_PRECONDITION change nothing and can be followed by a right
// call. UNAVAILABLE is for good: the
// keeper is gone, or the job is; every later call returns the same. A stepper that dies is no
// error: Wait takes longer.
// Lifetime: slabs may outlive the client. After fork() only the process that made a client may use
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/core/device.h"
#include "client/core/mapping.h"
#include "kernels/runtime/spin_window.h"
#include "proto/types/daemon_calls.h"
#include "proto/types/manifest.h"
#include "proto/wire/frame.h"
#include "proto/wire/job_page.h"

namespace muond {

// Where a shard of this rank lies in its slabs, in bytes.
struct ShardInSlab {
  uint64_t size_bytes = 0;
  uint64_t gradient_offset = 0;
  uint64_t parameter_offset = 0;
  bool push_gradient = true;  // false: another replica's bytes are read, ours are only digested
};

struct ClientInfo {
  uint64_t job = 0, session = 0, epoch = 0;
  uint32_t incarnation = 0;
  uint64_t last_step = 0;  // newest step whose outcome this client knows
  int32_t items = 0;
  uint32_t reconnects = 0;  // how often a stepper was lost and found again
  uint64_t page_bytes = 0;
};

struct StepSettings {
  std::vector<GroupScalars> groups;  // one for each group of the manifest
  double loss_scale = 1;             // gradients are divided by it
  double clip_norm = 0;              // 0: no clipping
  bool found_inf = false;
};

struct StepResult {
  uint64_t step = 0;
  bool applied = false;
  VoidReason reason{};  // of a VOID step; zero where the daemon did not tell
  int32_t tensor = -1;  // the tensor that the reason names
  std::string text;     // of a VOID step: what, which, where more is told
};

class Client {
 public:
  virtual ~Client() = default;

  virtual const ClientInfo& info() const = 0;
  virtual const Manifest& manifest() const = 0;
  virtual const std::vector<ShardInSlab>& places() const = 0;  // one for each shard of the rank
  virtual std::shared_ptr<Mapping> gradient_slab() const = 0;
  virtual std::shared_ptr<Mapping> parameter_slab() const = 0;

  // The next step's gradient of a shard: dense, `size_bytes` as in its place; copied (or digested)
  // before it returns. A tensor none of whose shards was put has no gradient in this step.
  // `data` may be the shard's own place in the gradient slab: then nothing is copied, and no second
  // gradient is needed. The place may be written from the moment the step before is over (Wait) until
  // its bucket is announced.
  virtual absl::Status Put(int32_t shard, const void* data, uint64_t size_bytes) = 0;
  // The gradients of these shards are written to their places by work that the stream holds already (a rank on a GPU), or are
  // there. Shards whose place says push_gradient = false need no bytes.
  virtual absl::Status Placed(absl::Span<const int32_t> shards) = 0;
  // The stream that the next calls speak of. FAILED_PRECONDITION for a rank in host memory.
  virtual absl::Status UseStream(StreamHandle stream) = 0;
  // The stream goes on when the committed step is over: what it holds next sees the new parameters.
  virtual absl::Status WaitOnStream() = 0;
  // Every gradient of the bucket that the step will have is put.
  virtual absl::Status Announce(int32_t bucket) = 0;
  // Announces what is left and hands the step over. Returns its number.
  virtual absl::StatusOr<uint64_t> Commit(const StepSettings& settings) = 0;
  // DEADLINE_EXCEEDED: not yet, wait again. A VOID step is a result, not an error.
  virtual absl::StatusOr<StepResult> Wait(absl::Duration timeout) = 0;

  // Between steps; data has the field's exact size (StateBytes).
  virtual absl::Status FetchState(int32_t tensor, StateField field, void* data,
                                  uint64_t size_bytes) = 0;
  virtual absl::Status PushState(int32_t tensor, StateField field, const void* data,
                                 uint64_t size_bytes) = 0;
  // The same of one of the rank's shards: its elements, dense. The count of steps (kStep) has no shards.
  virtual absl::Status FetchShardState(int32_t shard, StateField field, void* data,
                                       uint64_t size_bytes) = 0;
  virtual absl::Status PushShardState(int32_t shard, StateField field, const void* data,
                                      uint64_t size_bytes) = 0;

  // true: the calls for state share one connection from now on, until it is false again. A connection costs milliseconds, a
  // field of a small tensor a tenth of one; but threads of the connection's live with it, so it is for a series of calls, not for
  // the time of training (fork).
  virtual void KeepConnection(bool keep) = 0;

  virtual absl::Status Detach() = 0;
};

// Bytes of a tensor's field: four an element, eight for the count of steps.
// INVALID_ARGUMENT where the tensor's rule has no such field.
absl::StatusOr<uint64_t> StateBytes(const Manifest& manifest, int32_t tensor, StateField field);
// INVALID_ARGUMENT, with both numbers, unless `size_bytes` is that.
absl::Status CheckStateBytes(const Manifest& manifest, int32_t tensor, StateField field,
                             uint64_t size_bytes);

// A stretch of a shard that is one stretch of its tensor too.
struct StateRun {
  uint64_t tensor_offset_bytes = 0, shard_offset_bytes = 0, size_bytes = 0;
  friend bool operator==(const StateRun&, const StateRun&) = default;
};
// The shard's fp32 elements as the fewest such stretches, ascending in both.   REQUIRES: a valid
// shard of the tensor.
std::vector<StateRun> StateRunsOf(const TensorSpec& tensor, const ShardSpec& shard);
// INVALID_ARGUMENT, with both numbers, unless the field has shards, and `size_bytes` is `shard`'s.
absl::Status CheckShardStateBytes(const Manifest& manifest, const RankManifest& rank, int32_t shard,
                                  StateField field, uint64_t size_bytes);

struct AttachOptions {
  std::string endpoint;  // of the daemon's gRPC door
  std::string token;
  bool adopt = false;  // go on with the state that the daemon still holds under the job's name
  uint64_t attempt =
      0;  // a random number that the job's ranks share for this try; 0: they have none
  absl::Duration join_timeout = absl::Minutes(5);  // until every rank has come
  absl::Duration repair_timeout =
      absl::Minutes(1);  // how long a stepper that restarts is waited for
  // How long Wait looks at the step's cell before it sleeps, at most: less where steps take longer
  // or cores are wanted (kernels/runtime/spin_window.h). Zero: it sleeps at once.
  absl::Duration spin = absl::FromChrono(SpinWindow::kLongest);
};

// Blocks until every rank of the job has joined and the slabs are mapped.
absl::StatusOr<std::unique_ptr<Client>> AttachToDaemon(const AttachOptions& options,
                                                       const Manifest& manifest,
                                                       const RankManifest& rank);

// No daemon: slabs of this process, a step is p -= lr * (g / loss_scale), NaN and Inf make it VOID,
// state is what was pushed. One rank, whole fp32 tensors. For testing bindings.
absl::StatusOr<std::unique_ptr<Client>> CreateEcho(const Manifest& manifest,
                                                   const RankManifest& rank);

}  // namespace muond
