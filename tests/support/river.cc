#include "tests/support/river.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_format.h"
#include "server/observe/log.h"

namespace muond::testing {

MemoryVault::MemoryVault() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  MUOND_CHECK(event_.valid());
}

std::vector<KeptSlab> MemoryVault::TakeKeptSlabs() {
  absl::MutexLock lock(&mutex_);
  std::vector<KeptSlab> copies;
  for (const KeptSlab& slab : kept_)
    copies.push_back({slab.info, UniqueFd(::dup(slab.descriptor.get()))});
  return copies;
}

absl::Status MemoryVault::Keep(const SlabInfo& info, int descriptor) {
  absl::MutexLock lock(&mutex_);
  kept_.push_back({info, UniqueFd(::dup(descriptor))});
  return absl::OkStatus();
}

absl::Status MemoryVault::Drop(uint64_t slab) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(kept_, [slab](const KeptSlab& kept) { return kept.info.slab == slab; });
  return absl::OkStatus();
}

absl::Status MemoryVault::Grant(uint64_t session, uint64_t slab) {
  absl::MutexLock lock(&mutex_);
  grants_[session].push_back(slab);
  return absl::OkStatus();
}

absl::Status MemoryVault::Revoke(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  grants_.erase(session);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<KeeperEvent>> MemoryVault::Poll() {
  absl::MutexLock lock(&mutex_);
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(event_.get(), &count, sizeof count);
  return std::exchange(events_, {});
}

std::vector<KeptSlab> MemoryVault::Fetch(uint64_t session) const {
  absl::MutexLock lock(&mutex_);
  std::vector<KeptSlab> slabs;
  const auto grants = grants_.find(session);
  if (grants == grants_.end()) return slabs;
  for (const uint64_t id : grants->second) {
    for (const KeptSlab& slab : kept_) {
      if (slab.info.slab == id)
        slabs.push_back({slab.info, UniqueFd(::dup(slab.descriptor.get()))});
    }
  }
  return slabs;
}

void MemoryVault::TellRankGone(uint64_t session) {
  absl::MutexLock lock(&mutex_);
  events_.push_back({KeeperEventKind::kRankGone, session});
  const uint64_t one = 1;
  MUOND_CHECK(::write(event_.get(), &one, sizeof one) == sizeof one);
}

size_t MemoryVault::slabs() const {
  absl::MutexLock lock(&mutex_);
  return kept_.size();
}

River::River(RiverOptions options) : options_(options) {
  auto backend = CreateCpuBackend({options.devices, 0});
  MUOND_CHECK_OK(backend.status());
  backend_ = *std::move(backend);
  plans_ = options_.coordinator == nullptr
               ? std::make_unique<LocalPlans>("river", *backend_)
               : std::make_unique<LocalPlans>(options_.coordinator, *backend_);
  Start();
}

River::~River() { Stop(); }

void River::Start() {
  auto listener = ListenLoopback();
  MUOND_CHECK_OK(listener.status());
  hub_ = listener->hub;
  StepLoopOptions options;
  options.backend = backend_.get();
  options.make_ops = [](Device&) -> absl::StatusOr<std::unique_ptr<Ops>> { return CreateCpuOps(); };
  options.carrier = std::move(listener->carrier);
  options.vault = &vault_;
  options.plans = plans_.get();
  options.daemon = plans_->daemon();
  if (options_.net != nullptr) {
    auto shards = CreateLoopbackShards(options_.net, {}, address_);
    MUOND_CHECK_OK(shards.status());
    address_ = (*shards)->address();
    options.shards = *std::move(shards);
    options.peer_timeout = options_.peer_timeout;
  }
  options.job_lease = options_.job_lease;
  options.on_last_job_gone = [this] { ++last_job_gone_; };
  auto loop = StepLoop::Create(std::move(options));
  MUOND_CHECK_OK(loop.status());
  loop_ = *std::move(loop);
  thread_ = std::thread([this] { MUOND_CHECK_OK(loop_->Run()); });
}

void River::Stop() {
  if (loop_ == nullptr) return;
  loop_->Stop();
  thread_.join();
  loop_.reset();
}

StatusReport River::Status() {
  auto report =
      Ask<StatusReport>([this](Done<StatusReport> done) { loop_->Status(std::move(done)); });
  MUOND_CHECK_OK(report.status());
  return *std::move(report);
}

TestRank::TestRank(River& river, std::shared_ptr<const Manifest> manifest,
                   std::shared_ptr<const RankManifest> rank, const Joined& joined)
    : river_(river), manifest_(std::move(manifest)), rank_(std::move(rank)), joined_(joined) {}

absl::Status TestRank::Attach() {
  auto attached = Ask<Attached>(
      [this](Done<Attached> done) { river_.loop().Attach(joined_.session, std::move(done)); });
  if (!attached.ok()) return attached.status();
  attached_ = *std::move(attached);
  for (KeptSlab& kept : river_.vault().Fetch(joined_.session)) {
    auto slab = ImportHostSlab(kept.descriptor.Release(), kept.info.size_bytes);
    if (!slab.ok()) return slab.status();
    std::unique_ptr<Slab>& to = kept.info.kind == SlabKind::kPage       ? page_slab_
                                : kept.info.kind == SlabKind::kGradient ? gradient_slab_
                                                                        : parameter_slab_;
    to = *std::move(slab);
  }
  if (page_slab_ == nullptr || gradient_slab_ == nullptr || parameter_slab_ == nullptr) {
    return absl::NotFoundError("a slab was not granted");
  }
  const PageShape shape{static_cast<uint32_t>(manifest_->world_size),
                        static_cast<uint32_t>(manifest_->buckets),
                        static_cast<uint32_t>(attached_.items),
                        static_cast<uint32_t>(manifest_->groups.size()),
                        static_cast<uint32_t>(manifest_->tensors.size()),
                        static_cast<uint32_t>(attached_.page_blocks_max)};
  page_ = std::make_unique<JobPage>(page_slab_->data(), shape);
  return page_->Check(joined_.job_id, joined_.incarnation);
}

absl::Status TestRank::Connect() {
  auto connection = ConnectLoopback(river_.hub());
  if (!connection.ok()) return connection.status();
  connection_ = std::make_unique<LoopbackConnection>(*std::move(connection));
  Send(FrameOf(FrameType::kHello));
  auto welcome = Receive();
  if (!welcome.ok()) return welcome.status();
  if (welcome->type != FrameType::kWelcome) {
    return absl::FailedPreconditionError(absl::StrFormat("HELLO was answered by %s, value %d",
                                                         NameOf(welcome->type), welcome->value));
  }
  return absl::OkStatus();
}

Frame TestRank::FrameOf(FrameType type) const {
  Frame frame;
  frame.type = type;
  frame.job = joined_.job_id;
  frame.session = joined_.session;
  frame.rank = static_cast<uint32_t>(rank_->rank);
  frame.incarnation = joined_.incarnation;
  frame.epoch = joined_.epoch;
  return frame;
}

void TestRank::Send(Frame frame) {
  MUOND_CHECK_OK(connection_->carrier->Send(connection_->peer, frame));
}

absl::StatusOr<Frame> TestRank::Receive(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  for (;;) {
    while (next_event_ < events_.size()) {
      const CarrierEvent& event = events_[next_event_++];
      if (event.kind == CarrierEventKind::kFrame) return event.frame;
    }
    events_.clear();
    next_event_ = 0;
    connection_->carrier->Poll(&events_);
    if (!events_.empty()) continue;
    if (absl::Now() > deadline) return absl::DeadlineExceededError("no frame came");
    absl::SleepFor(absl::Microseconds(50));
  }
}

float* TestRank::gradient(size_t block) const {
  const PlacedBlock& at = attached_.blocks[block];
  return at.push_gradient ? reinterpret_cast<float*>(static_cast<char*>(gradient_slab_->data()) +
                                                     at.gradient_offset)
                          : nullptr;
}

float* TestRank::parameter(size_t block) const {
  return reinterpret_cast<float*>(static_cast<char*>(parameter_slab_->data()) +
                                  attached_.blocks[block].parameter_offset);
}

void TestRank::StoreGradientCell(uint64_t step, uint32_t bucket, uint32_t attempt) {
  StoreCell(&page_->gradient_ready(static_cast<uint32_t>(rank_->rank), bucket),
            step << 16 | attempt);
}

void TestRank::Announce(uint64_t step, uint32_t bucket, uint32_t attempt) {
  if (!cells_come_later) StoreGradientCell(step, bucket, attempt);
  Frame ready = FrameOf(FrameType::kReady);
  ready.step = step;
  ready.bucket = bucket;
  ready.attempt = attempt;
  Send(ready);
}

void TestRank::SendStep(uint64_t step) {
  Frame frame = FrameOf(FrameType::kStep);
  frame.step = step;
  Send(frame);
}

void TestRank::Begin(uint64_t step, const std::vector<std::vector<float>>& values,
                     const StepChoice& choice, uint32_t attempt) {
  const uint32_t rank = static_cast<uint32_t>(rank_->rank);
  for (size_t block = 0; block < values.size(); ++block) {
    if (gradient(block) != nullptr && !values[block].empty()) {
      std::memcpy(gradient(block), values[block].data(), values[block].size() * sizeof(float));
    }
  }
  SheetHeader& sheet = page_->sheet(rank, step);
  sheet.step = step;
  sheet.epoch = joined_.epoch;
  sheet.incarnation = joined_.incarnation;
  sheet.found_inf = choice.found_inf;
  sheet.loss_scale = choice.loss_scale;
  sheet.clip_norm = choice.clip_norm;
  for (size_t g = 0; g < manifest_->groups.size(); ++g) {
    const bool muon = manifest_->groups[g].rule == Rule::kMuon;
    page_->groups(rank, step)[g] = {muon ? choice.lr : choice.adamw_lr,
                                    choice.weight_decay,
                                    choice.momentum,
                                    muon ? 1e-7 : 1e-8,
                                    0.9,
                                    0.999,
                                    1};
  }
  std::memset(page_->present(rank, step), 0, (manifest_->tensors.size() + 63) / 64 * 8);
  for (size_t block = 0; block < values.size(); ++block) {
    const uint32_t tensor = static_cast<uint32_t>(rank_->shards[block].tensor);
    if (!values[block].empty())
      page_->present(rank, step)[tensor / 64] |= uint64_t{1} << (tensor % 64);
    uint64_t digest = 0;
    for (const float value : values[block]) {
      uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof bits);
      digest = digest * 0x9e3779b97f4a7c15 + bits;
    }
    page_->digests(rank, step)[block] =
        rank_->shards[block].replica_kind == ReplicaKind::kSame ? digest : 0;
  }
  for (int32_t bucket = 0; bucket < manifest_->buckets; ++bucket) {
    page_->attempts(rank, step)[bucket] = attempt;
    Announce(step, static_cast<uint32_t>(bucket), attempt);
  }
  sheet.commit.store(step, std::memory_order_release);
  SendStep(step);
}

absl::StatusOr<StepAnswer> TestRank::Finish(uint64_t step) {
  const Cell* over = &page_->step_over(static_cast<uint32_t>(rank_->rank));
  if (!WaitCell(over, step << 8, std::chrono::seconds(60))) {
    return absl::DeadlineExceededError(absl::StrFormat(
        "rank %d: step %d is not over, its cell says %d", rank_->rank, step, over->load() >> 8));
  }
  StepAnswer answer;
  answer.outcome = static_cast<StepOutcome>(over->load() & 0xff);
  for (;;) {
    auto frame = Receive();
    if (!frame.ok()) return frame.status();
    answer.frame = *frame;
    if (frame->step == step && (frame->type == FrameType::kDone || frame->type == FrameType::kVoid))
      return answer;
    if (frame->type == FrameType::kRefused)
      return absl::FailedPreconditionError(absl::StrFormat("refused, reason %d", frame->value));
  }
}

absl::StatusOr<std::unique_ptr<TestJob>> TestJob::Start(River& river, Manifest manifest,
                                                        std::vector<RankManifest> ranks,
                                                        ResumeMode resume) {
  std::vector<River*> rivers(ranks.size(), &river);
  return StartAt(std::move(rivers), std::move(manifest), std::move(ranks), resume);
}

absl::StatusOr<std::unique_ptr<TestJob>> TestJob::StartAt(std::vector<River*> rivers,
                                                          Manifest manifest,
                                                          std::vector<RankManifest> ranks,
                                                          ResumeMode resume) {
  auto job = std::make_unique<TestJob>();
  job->manifest = std::make_shared<const Manifest>(std::move(manifest));
  struct Pending {
    absl::Mutex mutex;
    std::vector<absl::StatusOr<Joined>> answers;
    size_t left = 0;
  } pending;
  pending.answers.resize(ranks.size(), absl::UnknownError("no answer"));
  pending.left = ranks.size();
  std::vector<std::shared_ptr<const RankManifest>> shared;
  static std::atomic<uint64_t> ticket{1};
  for (size_t r = 0; r < ranks.size(); ++r) {
    shared.push_back(std::make_shared<const RankManifest>(std::move(ranks[r])));
    JoinCommand command;
    command.ticket = ticket++;
    command.manifest = job->manifest;
    command.rank = shared.back();
    command.resume = resume;
    command.deadline = absl::Now() + absl::Seconds(5);
    rivers[r]->loop().Join(std::move(command), [&pending, r](absl::StatusOr<Joined> joined) {
      absl::MutexLock lock(&pending.mutex);
      pending.answers[r] = std::move(joined);
      --pending.left;
    });
  }
  {
    absl::MutexLock lock(&pending.mutex);
    const auto all = [&pending] { return pending.left == 0; };
    pending.mutex.Await(absl::Condition(&all));
  }
  for (size_t r = 0; r < shared.size(); ++r) {
    if (!pending.answers[r].ok()) return pending.answers[r].status();
    job->ranks.push_back(
        std::make_unique<TestRank>(*rivers[r], job->manifest, shared[r], *pending.answers[r]));
  }
  for (auto& rank : job->ranks) {
    if (absl::Status status = rank->Attach(); !status.ok()) return status;
    if (absl::Status status = rank->Connect(); !status.ok()) return status;
  }
  return job;
}

namespace {

// Calls body(offset in the whole, offset in the block, count) for the runs of the block's last dimension.
template <typename Body>
void ForBlockRuns(const TensorSpec& tensor, const ShardSpec& shard, Body body) {
  const size_t dims = tensor.shape.size();
  if (ElementsOf(shard) == 0) return;
  if (dims == 0) return body(0, 0, 1);
  const int64_t run = shard.extent[dims - 1];
  const int64_t runs = ElementsOf(shard) / run;
  for (int64_t i = 0; i < runs; ++i) {
    int64_t rest = i, at = 0, stride = tensor.shape[dims - 1];
    for (size_t d = dims - 1; d > 0; --d) {
      at += (shard.offset[d - 1] + rest % shard.extent[d - 1]) * stride;
      rest /= shard.extent[d - 1];
      stride *= tensor.shape[d - 1];
    }
    body(at + shard.offset[dims - 1], i * run, run);
  }
}

}  // namespace

std::vector<float> BlockOf(const TensorSpec& tensor, const ShardSpec& shard,
                           const std::vector<float>& whole) {
  std::vector<float> block(static_cast<size_t>(ElementsOf(shard)));
  ForBlockRuns(tensor, shard, [&](int64_t from, int64_t to, int64_t count) {
    std::memcpy(block.data() + to, whole.data() + from, static_cast<size_t>(count) * sizeof(float));
  });
  return block;
}

void PutBlock(const TensorSpec& tensor, const ShardSpec& shard, const float* block,
              std::vector<float>* whole) {
  ForBlockRuns(tensor, shard, [&](int64_t to, int64_t from, int64_t count) {
    std::memcpy(whole->data() + to, block + from, static_cast<size_t>(count) * sizeof(float));
  });
}

std::vector<float> Noise(uint64_t seed, size_t count, float scale) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

void TestJob::SetParameters(const std::vector<std::vector<float>>& tensors) {
  for (auto& rank : ranks) {
    for (size_t b = 0; b < rank->manifest().shards.size(); ++b) {
      const ShardSpec& shard = rank->manifest().shards[b];
      const std::vector<float> block =
          BlockOf(manifest->tensors[shard.tensor], shard, tensors[shard.tensor]);
      if (!block.empty())
        std::memcpy(rank->parameter(b), block.data(), block.size() * sizeof(float));
    }
  }
}

std::vector<std::vector<float>> TestJob::Parameters(int32_t replica) const {
  std::vector<std::vector<float>> tensors;
  for (const TensorSpec& tensor : manifest->tensors)
    tensors.emplace_back(static_cast<size_t>(ElementsOf(tensor)));
  for (const auto& rank : ranks) {
    for (size_t b = 0; b < rank->manifest().shards.size(); ++b) {
      const ShardSpec& shard = rank->manifest().shards[b];
      if (shard.replica == replica)
        PutBlock(manifest->tensors[shard.tensor], shard, rank->parameter(b),
                 &tensors[shard.tensor]);
    }
  }
  return tensors;
}

std::vector<std::vector<float>> TestJob::Blocks(const RankManifest& rank,
                                                const GradientFn& gradient) const {
  std::vector<std::vector<float>> blocks;
  for (const ShardSpec& shard : rank.shards) {
    const std::vector<float> whole =
        gradient(static_cast<size_t>(shard.tensor),
                 shard.replica_kind == ReplicaKind::kSum ? shard.replica : 0);
    blocks.push_back(whole.empty() ? whole
                                   : BlockOf(manifest->tensors[shard.tensor], shard, whole));
  }
  return blocks;
}

absl::StatusOr<StepAnswer> TestJob::Step(uint64_t step, const GradientFn& gradient,
                                         const StepChoice& choice) {
  for (auto& rank : ranks) rank->Begin(step, Blocks(rank->manifest(), gradient), choice);
  absl::StatusOr<StepAnswer> last = absl::InternalError("no rank");
  for (auto& rank : ranks) {
    last = rank->Finish(step);
    if (!last.ok()) return last;
  }
  return last;
}

void TestJob::Leave() {
  for (auto& rank : ranks) {
    auto left = Ask<std::monostate>([&](Done<std::monostate> done) {
      rank->river().loop().Detach(rank->joined().session, std::move(done));
    });
    MUOND_CHECK_OK(left.status());
  }
}

}  // namespace muond::testing
