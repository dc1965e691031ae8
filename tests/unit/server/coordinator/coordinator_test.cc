#include "server/coordinator/coordinator.h"

#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::RowSharded;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(1000);

// A store that outlives its coordinator, and can be told to fail.
class SharedStore final : public Store {
 public:
  explicit SharedStore(std::shared_ptr<Store> inner, const bool* failing)
      : inner_(std::move(inner)), failing_(failing) {}
  absl::Status Commit(absl::Span<const Change> changes) override {
    return *failing_ ? absl::ResourceExhaustedError("disk is full") : inner_->Commit(changes);
  }
  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Scan(
      std::string_view prefix) override {
    return inner_->Scan(prefix);
  }

 private:
  const std::shared_ptr<Store> inner_;
  const bool* const failing_;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override { Start(kStart); }
  void Start(absl::Time now) {
    CoordinatorOptions options;
    options.mint = [this] { return ++minted_; };
    coordinator_ = *Coordinator::Create(std::make_unique<SharedStore>(store_, &failing_),
                                        std::move(options), now);
  }
  RegisterCall Daemon(int devices = 2, std::string id = "") {
    RegisterCall call;
    call.endpoint = "unix:/d.sock";
    call.daemon = std::move(id);
    for (int d = 0; d < devices; ++d) {
      DeviceSpec device;
      device.ordinal = d;
      device.architecture = "cpu-avx2";
      device.memory_bytes = device.memory_free_bytes = 1 << 30;
      call.devices.push_back(device);
    }
    return call;
  }
  CreateJobCall Job(const std::string& daemon, std::string name = "job") {
    CreateJobCall call;
    call.daemon = daemon;
    call.manifest = EmptyManifest(2, std::move(name));
    for (int i = 0; i < 6; ++i)
      call.manifest.tensors.push_back(Tensor("w" + std::to_string(i), {64, 32}));
    call.ranks = RowSharded(call.manifest);
    return call;
  }

  uint64_t minted_ = 0;
  bool failing_ = false;
  std::shared_ptr<Store> store_ = CreateMemoryStore();
  std::unique_ptr<Coordinator> coordinator_;
};

TEST_F(CoordinatorTest, AJobIsPlannedOverTheDevicesOfItsDaemon) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  coordinator_->Register(Daemon(5), kStart).IgnoreError();
  const CreateJobCall call = Job(daemon);
  const absl::StatusOr<CreateJobReply> reply = coordinator_->CreateJob(call, kStart);
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_NE(reply->job, 0u);
  EXPECT_EQ(reply->incarnation, 1u);
  EXPECT_EQ(reply->plan.devices.size(), 2u);
  EXPECT_TRUE(Validate(call.manifest, reply->plan).ok());
  EXPECT_EQ((*coordinator_->GetPlan(reply->job, 0))->epoch, reply->plan.epoch);
  EXPECT_EQ(coordinator_->Heartbeat({daemon, {}, false}, kStart)->newest_epoch, reply->plan.epoch);
}

TEST_F(CoordinatorTest, ASecondJobOfOneNameIsRefusedNamingTheFirst) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  const uint64_t first = coordinator_->CreateJob(Job(daemon), kStart)->job;
  const absl::Status second = coordinator_->CreateJob(Job(daemon), kStart).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(second.message()),
              HasSubstr(absl::StrFormat(
                  "id %016x, incarnation 1, 2 ranks, on the daemon at unix:/d.sock", first)));
  EXPECT_TRUE(coordinator_->CreateJob(Job(daemon, "other"), kStart).ok());
  EXPECT_TRUE(coordinator_->EndJob(first, "done").ok());
  EXPECT_TRUE(coordinator_->CreateJob(Job(daemon), kStart).ok());
  EXPECT_EQ(coordinator_->EndJob(first, "again").code(), absl::StatusCode::kNotFound);
}

TEST_F(CoordinatorTest, TheNameOfAJobWhoseDaemonIsGoneIsFree) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  coordinator_->CreateJob(Job(daemon), kStart).IgnoreError();
  const absl::Time later = kStart + absl::Minutes(1);
  const std::string other = coordinator_->Register(Daemon(), later)->daemon;
  EXPECT_TRUE(coordinator_->CreateJob(Job(other), later).ok());
  EXPECT_EQ(coordinator_->GetCluster(later).jobs.size(), 1u);
}

TEST_F(CoordinatorTest, WhatADaemonDoesNotHoldAnyMoreHasEnded) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  const std::string other = coordinator_->Register(Daemon(), kStart)->daemon;
  const uint64_t kept = coordinator_->CreateJob(Job(daemon, "kept"), kStart)->job;
  coordinator_->CreateJob(Job(daemon, "lost"), kStart).IgnoreError();
  coordinator_->CreateJob(Job(other, "other's"), kStart).IgnoreError();
  RegisterCall again = Daemon(2, daemon);
  coordinator_->Register(again, kStart).IgnoreError();
  EXPECT_EQ(coordinator_->GetCluster(kStart).jobs.size(), 3u) << "it has said nothing of its jobs";
  again.held = std::vector<uint64_t>{kept, 4242};
  ASSERT_TRUE(coordinator_->Register(again, kStart).ok());
  const ClusterStatus cluster = coordinator_->GetCluster(kStart);
  ASSERT_EQ(cluster.jobs.size(), 2u);
  for (const JobEntry& job : cluster.jobs) EXPECT_NE(job.name, "lost");
  Start(kStart);
  EXPECT_EQ(coordinator_->GetCluster(kStart).jobs.size(), 2u) << "nor does the store know it";
  EXPECT_TRUE(coordinator_->CreateJob(Job(other, "lost"), kStart).ok());
}

TEST_F(CoordinatorTest, JobsOfADaemonWithoutLeaseAreShownAsOrphans) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  coordinator_->CreateJob(Job(daemon), kStart).IgnoreError();
  EXPECT_FALSE(coordinator_->GetCluster(kStart).jobs[0].orphaned);
  const absl::Time later = kStart + absl::Minutes(1);
  const ClusterStatus cluster = coordinator_->GetCluster(later);
  ASSERT_EQ(cluster.jobs.size(), 1u);
  EXPECT_TRUE(cluster.jobs[0].orphaned);
  EXPECT_EQ(cluster.jobs[0].daemon, daemon);
  coordinator_->Register(Daemon(2, daemon), later).IgnoreError();
  EXPECT_FALSE(coordinator_->GetCluster(later).jobs[0].orphaned);
}

TEST_F(CoordinatorTest, AfterARestartJobsPlansAndDaemonsAreWhatTheyWere) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  const CreateJobReply before = *coordinator_->CreateJob(Job(daemon), kStart);
  Start(kStart + absl::Hours(1));
  EXPECT_TRUE(coordinator_->Heartbeat({daemon, {}, false}, kStart + absl::Hours(1)).ok());
  const std::shared_ptr<const Plan> plan = *coordinator_->GetPlan(before.job, before.plan.epoch);
  for (size_t i = 0; i < plan->items.size(); ++i)
    EXPECT_EQ(plan->items[i].owner, before.plan.items[i].owner);
  EXPECT_EQ(coordinator_->CreateJob(Job(daemon), kStart + absl::Hours(1)).status().code(),
            absl::StatusCode::kAlreadyExists);
  const CreateJobReply next =
      *coordinator_->CreateJob(Job(daemon, "next"), kStart + absl::Hours(1));
  EXPECT_GT(next.plan.epoch, before.plan.epoch);
  for (const DeviceSpec& device : next.plan.devices) EXPECT_EQ(device.daemon, daemon);
}

TEST_F(CoordinatorTest, AnAdoptedJobIsTheNextIncarnationWithTheSameOwners) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  const CreateJobReply first = *coordinator_->CreateJob(Job(daemon), kStart);
  CreateJobCall adopt = Job(daemon);
  adopt.adopt = true;
  adopt.job = first.job;
  const CreateJobReply second = *coordinator_->CreateJob(adopt, kStart);
  EXPECT_EQ(second.job, first.job);
  EXPECT_EQ(second.incarnation, 2u);
  EXPECT_GT(second.plan.epoch, first.plan.epoch);
  for (size_t i = 0; i < first.plan.items.size(); ++i)
    EXPECT_EQ(second.plan.items[i].owner, first.plan.items[i].owner);

  adopt.manifest.tensors[2].shape = {65, 32};
  adopt.ranks = RowSharded(adopt.manifest);
  EXPECT_THAT(std::string(coordinator_->CreateJob(adopt, kStart).status().message()),
              HasSubstr("tensor 2 'w2': shape [64,32] against [65,32]"));
}

TEST_F(CoordinatorTest, AJobThatTheStoreLostIsAdoptedAboveItsOldIncarnation) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  CreateJobCall adopt = Job(daemon);
  adopt.adopt = true;
  adopt.job = 4242;
  adopt.incarnation = 7;
  const CreateJobReply reply = *coordinator_->CreateJob(adopt, kStart);
  EXPECT_EQ(reply.job, 4242u);
  EXPECT_EQ(reply.incarnation, 8u);
}

TEST_F(CoordinatorTest, OtherDevicesMeanANewPlanThatKeepsWhatItCan) {
  const std::string daemon = coordinator_->Register(Daemon(2), kStart)->daemon;
  const CreateJobReply job = *coordinator_->CreateJob(Job(daemon), kStart);
  ASSERT_TRUE(coordinator_->Register(Daemon(2, daemon), kStart).ok());
  EXPECT_EQ((*coordinator_->GetPlan(job.job, 0))->epoch, job.plan.epoch);
  ASSERT_TRUE(coordinator_->Register(Daemon(3, daemon), kStart).ok());
  const std::shared_ptr<const Plan> plan = *coordinator_->GetPlan(job.job, 0);
  EXPECT_GT(plan->epoch, job.plan.epoch);
  EXPECT_EQ(plan->devices.size(), 3u);
  int kept = 0;
  for (size_t i = 0; i < plan->items.size(); ++i)
    kept += plan->items[i].owner == job.plan.items[i].owner ? 1 : 0;
  EXPECT_EQ(kept, 4);  // six equal items from two devices to three: two move
}

TEST_F(CoordinatorTest, WhatTheStoreCouldNotKeepWasNotGranted) {
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  failing_ = true;
  EXPECT_EQ(coordinator_->CreateJob(Job(daemon), kStart).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(coordinator_->GetCluster(kStart).jobs.empty());
  failing_ = false;
  EXPECT_TRUE(coordinator_->CreateJob(Job(daemon), kStart).ok());
}

TEST_F(CoordinatorTest, StrangersDrainersAndOtherVersionsAreRefused) {
  EXPECT_EQ(coordinator_->CreateJob(Job("nobody"), kStart).status().code(),
            absl::StatusCode::kNotFound);
  RegisterCall call = Daemon();
  call.version.major_number = 9;
  EXPECT_EQ(coordinator_->Register(call, kStart).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(coordinator_->Register(Daemon(1, "../etc"), kStart).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::string daemon = coordinator_->Register(Daemon(), kStart)->daemon;
  ASSERT_TRUE(coordinator_->Heartbeat({daemon, {}, true}, kStart).ok());
  EXPECT_THAT(std::string(coordinator_->CreateJob(Job(daemon), kStart).status().message()),
              HasSubstr("drains"));
}

}  // namespace
}  // namespace muond
