#include "server/daemon/plans.h"

#include <deque>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "proto/stubs/coordinator_stub.h"
#include "server/observe/log.h"

namespace muond {
namespace {

constexpr absl::Duration kPlanWithin =
    absl::Seconds(60);  // a plan of 100,000 matrices takes seconds

class RemoteLink final : public CoordinatorLink {
 public:
  explicit RemoteLink(std::unique_ptr<CoordinatorStub> stub) : stub_(std::move(stub)) {}
  absl::StatusOr<RegisterReply> Register(const RegisterCall& call) override {
    return stub_->Register(call);
  }
  absl::StatusOr<HeartbeatReply> Heartbeat(const HeartbeatCall& call) override {
    return stub_->Heartbeat(call);
  }
  absl::StatusOr<CreateJobReply> CreateJob(const CreateJobCall& call) override {
    return stub_->CreateJob(call, kPlanWithin);
  }
  std::string answering() override { return stub_->answering(); }
  absl::StatusOr<OfferReply> OfferRanks(const OfferCall& call) override {
    return stub_->OfferRanks(call, kPlanWithin);
  }
  absl::Status EndJob(uint64_t job, const std::string& reason) override {
    return stub_->EndJob(job, reason);
  }

 private:
  const std::unique_ptr<CoordinatorStub> stub_;
};

bool Away(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
}

class PlansImpl final : public Plans, public PlanSource {
 public:
  explicit PlansImpl(PlansOptions options)
      : options_(std::move(options)), held_(options_.jobs.begin(), options_.jobs.end()) {}
  ~PlansImpl() override { Stop(); }

  absl::Status Start() {
    daemon_ = options_.id->id();
    // A successor goes on under its predecessor's id: its jobs need no coordinator, and do not wait for one.
    registered_ = daemon_.empty() || options_.first_start;
    if (registered_) {
      if (auto status = Register(); !status.ok()) return status;
    }
    thread_ = std::thread([this] { Run(); });
    return absl::OkStatus();
  }

  PlanSource& source() override { return *this; }
  std::string daemon() const override { return daemon_; }
  std::string answering() const override { return options_.link->answering(); }
  std::vector<grpc::Service*> services() override { return options_.link->services(); }
  absl::Duration heartbeat_age() const override {
    absl::MutexLock lock(&mutex_);
    return absl::Now() - last_answer_;
  }
  void SetDraining(bool draining) override {
    absl::MutexLock lock(&mutex_);
    draining_ = draining;
  }

  void CreateJob(std::shared_ptr<const Manifest> manifest,
                 std::vector<std::shared_ptr<const RankManifest>> ranks, const AdoptedJob& adopted,
                 absl::AnyInvocable<void(absl::StatusOr<PlannedJob>)> done) override {
    Post([this, manifest = std::move(manifest), ranks = std::move(ranks), adopted,
          done = std::move(done)]() mutable {
      // Before a new name: the coordinator may still hold what a dead stepper did not live to enter or to end.
      if (!registered_) Register().IgnoreError();
      CreateJobCall call;
      call.daemon = daemon_;
      call.manifest = *manifest;
      for (const auto& rank : ranks) call.ranks.push_back(*rank);
      call.adopt = adopted.job_id != 0;
      call.job = adopted.job_id;
      call.incarnation = adopted.incarnation;
      auto reply = options_.link->CreateJob(call);
      // The lease has run out since the last heartbeat; or a coordinator entered the job and was gone before its answer came,
      // and its successor knows the job: a registration ends what this daemon does not hold.
      if ((absl::IsNotFound(reply.status()) || absl::IsAlreadyExists(reply.status())) &&
          Register().ok())
        reply = options_.link->CreateJob(call);
      if (!reply.ok()) return done(reply.status());
      held_.insert(reply->job);
      done(PlannedJob{reply->job, reply->incarnation, std::move(reply->plan)});
    });
  }

  void OfferRanks(OfferCall call,
                  absl::AnyInvocable<void(absl::StatusOr<OfferReply>)> done) override {
    Post([this, call = std::move(call), done = std::move(done)]() mutable {
      if (!registered_) Register().IgnoreError();
      call.daemon = daemon_;
      auto reply = options_.link->OfferRanks(call);
      if (reply.ok() && reply->complete) held_.insert(reply->job.job);
      done(std::move(reply));
    });
  }

  void EndJob(uint64_t job_id, const std::string& reason) override {
    Post([this, job_id, reason] {
      held_.erase(job_id);
      ended_.emplace(job_id, reason);
      TellEnds();
    });
  }

  void Stop() override {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(stopped_, true)) return;
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  // Tells what has ended; what does not reach the coordinator now is told after a later heartbeat.
  void TellEnds() {
    while (!ended_.empty()) {
      const auto& [job, reason] = *ended_.begin();
      const absl::Status status = options_.link->EndJob(job, reason);
      if (Away(status)) return;
      // Not found: it has forgotten the job by itself.
      if (!status.ok() && !absl::IsNotFound(status))
        Log(Severity::kWarning, "coordinator.end_job_failed", {{"error", status}});
      ended_.erase(ended_.begin());
    }
  }

  absl::Status Register() {
    RegisterCall call;
    call.endpoint = options_.endpoint;
    call.devices = DeviceSpecsOf(*options_.backend, daemon_);
    call.daemon = daemon_;
    call.held.emplace(held_.begin(), held_.end());
    auto reply = options_.link->Register(call);
    if (!reply.ok()) return reply.status();
    ended_.clear();  // all that is not held has ended
    registered_ = true;
    if (daemon_.empty()) {
      daemon_ = reply->daemon;
      if (auto status = options_.id->Keep(daemon_); !status.ok()) return status;
    } else if (reply->daemon != daemon_) {
      // Plans name this daemon's devices by its id; it cannot change under running jobs.
      return absl::FailedPreconditionError("the coordinator knows this daemon under another id");
    }
    absl::MutexLock lock(&mutex_);
    if (reply->lease_ms > 0) beat_every_ = absl::Milliseconds(reply->lease_ms) / 3;
    Answered();
    return absl::OkStatus();
  }

  void Post(absl::AnyInvocable<void()> work) {
    absl::MutexLock lock(&mutex_);
    if (!stopped_) queue_.push_back(std::move(work));
  }

  void Run() {
    absl::Time next_beat = registered_ ? absl::Now() + absl::Seconds(1) : absl::Now();
    for (;;) {
      absl::AnyInvocable<void()> work;
      {
        absl::MutexLock lock(&mutex_);
        const auto wake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          return stopped_ || !queue_.empty();
        };
        mutex_.AwaitWithDeadline(absl::Condition(&wake), next_beat);
        if (stopped_) return;
        if (!queue_.empty()) {
          work = std::move(queue_.front());
          queue_.pop_front();
        }
      }
      if (work) work();
      if (absl::Now() < next_beat) continue;
      Beat();
      absl::MutexLock lock(&mutex_);
      next_beat = absl::Now() + beat_every_;
    }
  }

  void Beat() {
    HeartbeatCall call;
    call.daemon = daemon_;
    call.devices = DeviceSpecsOf(*options_.backend, daemon_);
    {
      absl::MutexLock lock(&mutex_);
      call.draining = draining_;
    }
    absl::Status status;
    if (registered_) status = options_.link->Heartbeat(call).status();
    // The lease has run out, or this stepper has not told yet which jobs it holds.
    if (!registered_ || absl::IsNotFound(status)) status = Register();
    if (status.ok() != std::exchange(in_touch_, status.ok())) {
      Log(status.ok() ? Severity::kInfo : Severity::kWarning,
          status.ok() ? "coordinator.back" : "coordinator.away", {{"error", status}});
    }
    if (!status.ok()) return;
    TellEnds();
    absl::MutexLock lock(&mutex_);
    Answered();
  }

  void Answered() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    last_answer_ = absl::Now();
    if (options_.metrics != nullptr) options_.metrics->CoordinatorHeartbeat(last_answer_);
  }

  PlansOptions options_;
  std::string daemon_;  // set before the thread starts
  // The thread's, once it runs.
  bool in_touch_ = true;
  bool registered_ = false;  // by this stepper, under daemon_
  std::set<uint64_t> held_;
  std::map<uint64_t, std::string> ended_;  // and the coordinator does not know yet: why
  std::thread thread_;
  mutable absl::Mutex mutex_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  absl::Duration beat_every_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(2);
  absl::Time last_answer_ ABSL_GUARDED_BY(mutex_) = absl::Now();
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorLink>> ConnectCoordinator(const std::string& endpoint,
                                                                    const TlsOptions& tls) {
  StubOptions options;
  options.tls = tls;
  auto stub = CoordinatorStub::Create(endpoint, options);
  if (!stub.ok()) return stub.status();
  return std::make_unique<RemoteLink>(*std::move(stub));
}

absl::StatusOr<std::unique_ptr<Plans>> Plans::Open(PlansOptions options) {
  auto plans = std::make_unique<PlansImpl>(std::move(options));
  if (auto status = plans->Start(); !status.ok()) return status;
  return plans;
}

std::vector<DeviceSpec> DeviceSpecsOf(const Backend& backend, const std::string& daemon) {
  std::vector<DeviceSpec> specs;
  for (const auto& device : backend.devices()) {
    const DeviceInfo& info = device->info();
    specs.push_back({daemon, info.ordinal, info.uuid, info.name, info.architecture,
                     info.memory_bytes, device->free_bytes()});
  }
  return specs;
}

}  // namespace muond
