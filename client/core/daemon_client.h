// DaemonClient: a rank attached to a daemon. See client.h for the contract.
//
// The cells of the job page say what is true; frames only say when to look. A step is over when
// `step_over` of this rank says its number, whatever came or did not come over the line. Everything
// said about an open step is kept here and said again to every new stepper, and after kRepeatAfter
// without an answer.
// Threads: one at a time.   gRPC lives only within Attach, FetchState, PushState, Detach, the end of a VOID step, and as long
// as KeepConnection says: else nothing of it is there when a step runs or a process forks.
#pragma once

#include <unistd.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/core/client.h"
#include "client/core/frame_line.h"
#include "client/core/job_watch.h"
#include "client/core/step_book.h"

namespace muond {

class DaemonStub;

class DaemonClient : public Client {
 public:
  static absl::StatusOr<std::unique_ptr<Client>> Attach(const AttachOptions& options,
                                                        const Manifest& manifest,
                                                        const RankManifest& rank);
  ~DaemonClient() override;

  const ClientInfo& info() const override { return info_; }
  const Manifest& manifest() const override { return manifest_; }
  const std::vector<ShardInSlab>& places() const override { return places_; }
  std::shared_ptr<Mapping> gradient_slab() const override { return gradients_; }
  std::shared_ptr<Mapping> parameter_slab() const override { return parameters_; }

  absl::Status Put(int32_t shard, const void* data, uint64_t size_bytes) override;
  absl::Status Placed(absl::Span<const int32_t> shards) override;
  absl::Status UseStream(StreamHandle stream) override;
  absl::Status WaitOnStream() override;
  absl::Status Announce(int32_t bucket) override;
  absl::StatusOr<uint64_t> Commit(const StepSettings& settings) override;
  absl::StatusOr<StepResult> Wait(absl::Duration timeout) override;
  absl::Status FetchState(int32_t tensor, StateField field, void* data,
                          uint64_t size_bytes) override;
  absl::Status PushState(int32_t tensor, StateField field, const void* data,
                         uint64_t size_bytes) override;
  absl::Status FetchShardState(int32_t shard, StateField field, void* data,
                               uint64_t size_bytes) override;
  absl::Status PushShardState(int32_t shard, StateField field, const void* data,
                              uint64_t size_bytes) override;
  void KeepConnection(bool keep) override;
  absl::Status Detach() override;

 private:
  DaemonClient(const AttachOptions& options, const Manifest& manifest, const RankManifest& rank);
  absl::Status MapSlabs(SlabFetch* keeper, const AttachReply& layout);
  absl::StatusOr<std::shared_ptr<Mapping>> MapSlab(int fd, uint64_t size_bytes, bool on_device);
  absl::Status PlaceShards(const AttachReply& layout);

  // The open step's outcome is in the page.
  bool IsOver() const;
  uint32_t own_rank() const { return static_cast<uint32_t>(rank_.rank); }
  // OK while the job lives; afterwards the reason, the same at every call.
  absl::Status Alive();
  absl::Status AnnounceNow(int32_t bucket);
  void SayReady(int32_t bucket);
  void SayAgain();
  uint64_t StepOver() const;
  // Takes what the line brings within `timeout`.
  absl::Status Listen(absl::Duration timeout);
  absl::Status Hear(const Frame& frame);
  absl::Status WaitUntilTaken(int32_t bucket);
  StepResult Over(bool applied);
  // Asks the daemon over gRPC, and asks again while its stepper restarts: `question` may be put twice.
  absl::Status Ask(const std::function<absl::Status(DaemonStub&)>& question);
  // The daemon's own words on the step that it refused: names and numbers. Empty when it does not tell in time.
  std::string AskWhyVoid(uint64_t step) const;
  absl::Status BetweenSteps();
  absl::Status CheckState(int32_t tensor, StateField field, uint64_t size_bytes);
  // Of a tensor's field, what `runs` (ascending) say: to and from `data`.
  absl::Status FetchRuns(int32_t tensor, StateField field, absl::Span<const StateRun> runs,
                         void* data);
  absl::Status PushRuns(int32_t tensor, StateField field, absl::Span<const StateRun> runs,
                        const void* data);

  const AttachOptions options_;
  const Manifest manifest_;
  const RankManifest rank_;
  std::vector<ShardInSlab> places_;
  std::shared_ptr<ClientDevice> device_;  // null: this rank's memory is the host's
  StreamHandle stream_ = 0;
  bool stream_waits_ = false;  // a stream was told to wait for the committed step
  std::shared_ptr<Mapping> gradients_, parameters_, page_memory_;
  std::unique_ptr<JobPage> page_;
  std::unique_ptr<FrameLine> line_;
  std::unique_ptr<StepBook> book_;
  SpinWindow spin_;
  std::unique_ptr<JobWatch> watch_;  // of a rank on a GPU
  ClientInfo info_;
  const pid_t owner_pid_ = ::getpid();
  int keeper_descriptor_ = -1;
  uint64_t first_step_ = 1;  // of this session
  absl::Time next_repeat_;
  absl::Duration repeat_after_;
  Frame void_frame_;  // of the open step, when one came
  bool detached_ = false;
  absl::Status dead_;
  bool keeps_connection_ = false;
  std::unique_ptr<DaemonStub> connection_;  // null where none is kept, or it was lost
  std::vector<Frame> heard_;                // kept so that a step allocates nothing
};

// What a VOID step's reason and detail mean, with names: for people.
std::string VoidText(const Manifest& manifest, uint64_t step, VoidReason reason, uint32_t detail);

}  // namespace muond
