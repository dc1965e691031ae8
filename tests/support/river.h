// River: a daemon's step loop in this process, over the loopback carrier and CPU devices, and ranks that talk to it as a client
// does: frames, sheets, cells and slabs. The vault outlives the loop, so that a loop can be ended anywhere and another started.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "proto/carrier/loopback/loopback_carrier.h"
#include "proto/carrier/loopback/loopback_shard_carrier.h"
#include "proto/types/manifest.h"
#include "proto/wire/job_page.h"
#include "server/daemon/step_loop.h"
#include "tests/support/local_plans.h"

namespace muond::testing {

// Keeps descriptors as the keeper does.
class MemoryVault final : public SlabVault {
 public:
  MemoryVault();
  std::vector<KeptSlab> TakeKeptSlabs() override;
  absl::Status Keep(const SlabInfo& info, int descriptor) override;
  absl::Status Drop(uint64_t slab) override;
  absl::Status Grant(uint64_t session, uint64_t slab) override;
  absl::Status Revoke(uint64_t session) override;
  int event_descriptor() const override { return event_.get(); }
  absl::StatusOr<std::vector<KeeperEvent>> Poll() override;

  // What a rank would fetch.
  std::vector<KeptSlab> Fetch(uint64_t session) const;
  void TellRankGone(uint64_t session);
  size_t slabs() const;

 private:
  mutable absl::Mutex mutex_;
  std::vector<KeptSlab> kept_;
  std::map<uint64_t, std::vector<uint64_t>> grants_;
  std::vector<KeeperEvent> events_;
  UniqueFd event_;
};

struct RiverOptions {
  int devices = 1;
  absl::Duration job_lease = absl::Minutes(10);
  // One of several daemons: both or neither.
  Coordinator* coordinator = nullptr;
  std::shared_ptr<LoopbackNet> net = nullptr;
  absl::Duration peer_timeout = absl::Seconds(30);
};

class River {
 public:
  explicit River(RiverOptions options = {});
  ~River();
  void Stop();   // ends the loop's thread and the loop; the vault stays
  void Start();  // a loop over what the vault holds
  StepLoop& loop() { return *loop_; }
  MemoryVault& vault() { return vault_; }
  Backend& backend() { return *backend_; }
  std::shared_ptr<LoopbackHub> hub() { return hub_; }
  StatusReport Status();
  int last_job_gone() const { return last_job_gone_; }
  const std::string& daemon() const { return plans_->daemon(); }
  const std::string& address() const { return address_; }  // of its shards

 private:
  RiverOptions options_;
  std::unique_ptr<Backend> backend_;
  MemoryVault vault_;
  std::unique_ptr<LocalPlans> plans_;
  std::shared_ptr<LoopbackHub> hub_;
  std::string address_;
  std::unique_ptr<StepLoop> loop_;
  std::thread thread_;
  std::atomic<int> last_job_gone_{0};
};

// Waits for a command's answer.
template <typename T>
absl::StatusOr<T> Ask(const std::function<void(Done<T>)>& command) {
  absl::Mutex mutex;
  std::unique_ptr<absl::StatusOr<T>> answer;
  command([&](absl::StatusOr<T> value) {
    absl::MutexLock lock(&mutex);
    answer = std::make_unique<absl::StatusOr<T>>(std::move(value));
  });
  absl::MutexLock lock(&mutex);
  const auto answered = [&] { return answer != nullptr; };
  mutex.Await(absl::Condition(&answered));
  return *std::move(answer);
}

struct StepChoice {
  double lr = 0.02, weight_decay = 0.1, momentum = 0.95, adamw_lr = 1e-3;
  double clip_norm = 0, loss_scale = 1;
  bool found_inf = false;
};

struct StepAnswer {
  StepOutcome outcome = StepOutcome::kApplied;
  Frame frame;  // DONE or VOID
};

// One rank of a job.
class TestRank {
 public:
  TestRank(River& river, std::shared_ptr<const Manifest> manifest,
           std::shared_ptr<const RankManifest> rank, const Joined& joined);
  absl::Status Attach();
  absl::Status Connect();  // a frame connection and HELLO
  void Disconnect() { connection_.reset(); }

  float* gradient(size_t block) const;  // null when another replica is read
  float* parameter(size_t block) const;
  bool pushes(size_t block) const { return attached_.blocks[block].push_gradient; }
  size_t elements(size_t block) const {
    return static_cast<size_t>(ElementsOf(rank_->shards[block]));
  }

  // Writes the gradients of all blocks from `values(block)` (empty: the tensor has none), announces, fills the sheet, says STEP.
  void Begin(uint64_t step, const std::vector<std::vector<float>>& values,
             const StepChoice& choice = {}, uint32_t attempt = 0);
  void Announce(uint64_t step, uint32_t bucket, uint32_t attempt);
  // As a rank on a GPU: frames travel ahead, Announce leaves the cell to StoreGradientCell.
  bool cells_come_later = false;
  void StoreGradientCell(uint64_t step, uint32_t bucket, uint32_t attempt = 0);
  void SendStep(uint64_t step);
  // Until the step is over for this rank. DEADLINE_EXCEEDED after a minute.
  absl::StatusOr<StepAnswer> Finish(uint64_t step);
  absl::StatusOr<Frame> Receive(absl::Duration timeout = absl::Minutes(1));
  void Send(Frame frame);
  Frame FrameOf(FrameType type) const;

  River& river() { return river_; }
  JobPage& page() { return *page_; }
  const Joined& joined() const { return joined_; }
  const Attached& attached() const { return attached_; }
  const RankManifest& manifest() const { return *rank_; }

 private:
  River& river_;
  std::shared_ptr<const Manifest> manifest_;
  std::shared_ptr<const RankManifest> rank_;
  Joined joined_;
  Attached attached_;
  std::unique_ptr<Slab> gradient_slab_, parameter_slab_, page_slab_;
  std::unique_ptr<JobPage> page_;
  std::unique_ptr<LoopbackConnection> connection_;
  std::vector<CarrierEvent> events_;
  size_t next_event_ = 0;
};

// All ranks of a job: joined, attached, connected.
class TestJob {
 public:
  static absl::StatusOr<std::unique_ptr<TestJob>> Start(River& river, Manifest manifest,
                                                        std::vector<RankManifest> ranks,
                                                        ResumeMode resume = ResumeMode::kFresh);
  // Rank r at rivers[r].
  static absl::StatusOr<std::unique_ptr<TestJob>> StartAt(std::vector<River*> rivers,
                                                          Manifest manifest,
                                                          std::vector<RankManifest> ranks,
                                                          ResumeMode resume = ResumeMode::kFresh);
  std::vector<std::unique_ptr<TestRank>> ranks;
  std::shared_ptr<const Manifest> manifest;

  // Tensors are given and taken whole; each rank gets its blocks of them.
  void SetParameters(const std::vector<std::vector<float>>& tensors);
  std::vector<std::vector<float>> Parameters(int32_t replica = 0) const;
  // One step on all ranks with whole gradients (empty: none). Replicas that are summed get `gradient(tensor, replica)`.
  using GradientFn = std::function<std::vector<float>(size_t tensor, int32_t replica)>;
  absl::StatusOr<StepAnswer> Step(uint64_t step, const GradientFn& gradient,
                                  const StepChoice& choice = {});
  std::vector<std::vector<float>> Blocks(const RankManifest& rank,
                                         const GradientFn& gradient) const;
  void Leave();
};

// Copies between a whole tensor and a block of it.
std::vector<float> BlockOf(const TensorSpec& tensor, const ShardSpec& shard,
                           const std::vector<float>& whole);
void PutBlock(const TensorSpec& tensor, const ShardSpec& shard, const float* block,
              std::vector<float>* whole);

// Numbers from a seed: equal on every rank and device.
std::vector<float> Noise(uint64_t seed, size_t count, float scale = 1);

}  // namespace muond::testing
