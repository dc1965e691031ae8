// One job over two daemons: the same bits as on one, whatever ends and comes back in between.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "server/observe/log.h"
#include "tests/support/manifests.h"
#include "tests/support/river.h"

namespace muond::testing {
namespace {

using ::testing::HasSubstr;
using Tensors = std::vector<std::vector<float>>;

Manifest Model(int32_t world_size) {
  Manifest manifest = EmptyManifest(world_size);
  manifest.tensors = {Tensor("a", {20, 12}),           Tensor("b", {9, 30}),
                      Tensor("c", {25}, Rule::kAdamW), Tensor("d", {24, 24}),
                      Tensor("e", {16, 40}),           Tensor("f", {33, 8}, Rule::kAdamW)};
  manifest.buckets = 2;
  for (size_t t = 3; t < manifest.tensors.size(); ++t) manifest.tensors[t].bucket = 1;
  return manifest;
}

TestJob::GradientFn Gradients(const Manifest& manifest, uint64_t step) {
  return [&manifest, step](size_t t, int32_t) {
    return Noise(step * 31 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t])));
  };
}

Tensors Initial(const Manifest& manifest) {
  Tensors tensors;
  for (size_t t = 0; t < manifest.tensors.size(); ++t)
    tensors.push_back(Noise(500 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t]))));
  return tensors;
}

void ExpectSameBits(const Tensors& one, const Tensors& other) {
  ASSERT_EQ(one.size(), other.size());
  for (size_t t = 0; t < one.size(); ++t) {
    ASSERT_EQ(one[t].size(), other[t].size());
    EXPECT_EQ(std::memcmp(one[t].data(), other[t].data(), one[t].size() * sizeof(float)), 0)
        << "tensor " << t;
  }
}

// `last` steps of a job that runs on one daemon, undisturbed.
Tensors OnOneDaemon(int32_t world_size, uint64_t last, const StepChoice& choice = {}) {
  River river;
  auto job = TestJob::Start(river, Model(world_size), Replicated(Model(world_size)));
  EXPECT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(*(*job)->manifest));
  for (uint64_t step = 1; step <= last; ++step) {
    auto answer = (*job)->Step(step, Gradients(*(*job)->manifest, step), choice);
    EXPECT_TRUE(answer.ok()) << answer.status();
  }
  return (*job)->Parameters();
}

class NodesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto coordinator = Coordinator::Create(CreateMemoryStore(), CoordinatorOptions{}, absl::Now());
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
    net_ = LoopbackNet::Create();
  }
  void StartNodes(int count, absl::Duration peer_timeout = absl::Seconds(30)) {
    for (int i = 0; i < count; ++i) {
      RiverOptions options;
      options.coordinator = coordinator_.get();
      options.net = net_;
      options.peer_timeout = peer_timeout;
      nodes_.push_back(std::make_unique<River>(options));
    }
  }
  // Rank r at node `at[r]`.
  void StartJob(const std::vector<int>& at) {
    const Manifest manifest = Model(static_cast<int32_t>(at.size()));
    std::vector<River*> rivers;
    for (const int node : at) rivers.push_back(nodes_[node].get());
    auto job = TestJob::StartAt(rivers, manifest, Replicated(manifest));
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    job_->SetParameters(Initial(manifest));
  }
  void RunSteps(uint64_t first, uint64_t last, const StepChoice& choice = {}) {
    for (uint64_t step = first; step <= last; ++step) {
      auto answer = job_->Step(step, Gradients(*job_->manifest, step), choice);
      ASSERT_TRUE(answer.ok()) << answer.status();
      ASSERT_EQ(answer->outcome, StepOutcome::kApplied);
    }
  }
  void Restart(int node) {
    nodes_[node]->Stop();
    nodes_[node]->Start();
    for (auto& rank : job_->ranks) {
      if (&rank->river() != nodes_[node].get()) continue;
      rank->Disconnect();
      ASSERT_TRUE(rank->Connect().ok());
    }
  }
  int ItemsOf(int node) {
    int items = 0;
    for (const DeviceReport& device : nodes_[node]->Status().devices)
      items += static_cast<int>(device.items);
    return items;
  }
  // The member that gives the verdicts: the owner of item 0.
  int Chief() {
    auto plan = Ask<std::shared_ptr<const Plan>>([&](Done<std::shared_ptr<const Plan>> done) {
      nodes_[0]->loop().GetPlan(job_->ranks[0]->joined().job_id, 0, std::move(done));
    });
    MUOND_CHECK_OK(plan.status());
    const std::string& owner = (*plan)->devices[(*plan)->items[0].owner].daemon;
    return owner == nodes_[0]->daemon() ? 0 : 1;
  }

  std::unique_ptr<Coordinator> coordinator_;
  std::shared_ptr<LoopbackNet> net_;
  std::vector<std::unique_ptr<River>> nodes_;
  std::unique_ptr<TestJob> job_;
};

TEST_F(NodesTest, TwoDaemonsShareTheItemsAndGiveTheBitsOfOne) {
  StartNodes(2);
  StartJob({0, 1});
  EXPECT_GT(ItemsOf(0), 0);
  EXPECT_GT(ItemsOf(1), 0);
  EXPECT_EQ(ItemsOf(0) + ItemsOf(1), job_->ranks[0]->attached().items);
  RunSteps(1, 6);
  const Tensors expected = OnOneDaemon(2, 6);
  ExpectSameBits(job_->Parameters(0), expected);
  ExpectSameBits(job_->Parameters(1), expected);
  job_->Leave();
}

TEST_F(NodesTest, SeveralRanksAtEachOfThreeDaemonsWithClipping) {
  StartNodes(3);
  StartJob({0, 1, 2, 1, 0});
  const StepChoice clipped{.clip_norm = 0.5};
  RunSteps(1, 4, clipped);
  const Tensors expected = OnOneDaemon(5, 4, clipped);
  for (int32_t rank = 0; rank < 5; ++rank) ExpectSameBits(job_->Parameters(rank), expected);
  job_->Leave();
}

TEST_F(NodesTest, WhatIsWrongOnOneNodeVoidsTheStepOnBothWithItsName) {
  StartNodes(2);
  StartJob({0, 1});
  RunSteps(1, 2);
  const Tensors before = job_->Parameters(0);
  // A NaN in every gradient: whoever owns tensor 0 has measured it.
  const auto poisoned = [&](size_t t, int32_t) {
    std::vector<float> values(static_cast<size_t>(ElementsOf(job_->manifest->tensors[t])), 1);
    values.back() = std::numeric_limits<float>::quiet_NaN();
    return values;
  };
  auto answer = job_->Step(3, poisoned);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outcome, StepOutcome::kVoid);
  EXPECT_EQ(static_cast<VoidReason>(answer->frame.value), VoidReason::kNonFinite);
  EXPECT_EQ(answer->frame.bucket, 0u);
  // Replicas that differ between the nodes.
  for (auto& rank : job_->ranks) {
    auto blocks = job_->Blocks(rank->manifest(), Gradients(*job_->manifest, 4));
    blocks[1][0] += static_cast<float>(rank->manifest().rank);
    rank->Begin(4, blocks);
  }
  for (auto& rank : job_->ranks) {
    answer = rank->Finish(4);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(static_cast<VoidReason>(answer->frame.value), VoidReason::kReplicasDiffer);
    EXPECT_EQ(answer->frame.bucket, 1u);
  }
  ExpectSameBits(job_->Parameters(0), before);
  ExpectSameBits(job_->Parameters(1), before);
  RunSteps(5, 6);
  ExpectSameBits(job_->Parameters(0), job_->Parameters(1));
}

TEST_F(NodesTest, EitherStepperMayEndBetweenAndWithinSteps) {
  StartNodes(2);
  StartJob({0, 1});
  uint64_t step = 1;
  for (const int node : {0, 1, 1, 0}) {
    RunSteps(step, step);
    Restart(node);
    if (HasFatalFailure()) return;
    // And while only one node's rank has come.
    ++step;
    TestRank& first = *job_->ranks[0];
    first.Begin(step, job_->Blocks(first.manifest(), Gradients(*job_->manifest, step)));
    Restart(1 - node);
    if (HasFatalFailure()) return;
    TestRank& second = *job_->ranks[1];
    second.Begin(step, job_->Blocks(second.manifest(), Gradients(*job_->manifest, step)));
    for (TestRank* rank : {&first, &second}) {
      const Cell* over = &rank->page().step_over(static_cast<uint32_t>(rank->manifest().rank));
      ASSERT_TRUE(WaitCell(over, step << 8, std::chrono::seconds(20))) << "step " << step;
    }
    ++step;
  }
  const Tensors expected = OnOneDaemon(2, step - 1);
  ExpectSameBits(job_->Parameters(0), expected);
  ExpectSameBits(job_->Parameters(1), expected);
}

TEST_F(NodesTest, ARankThatDiesEndsTheJobOnBothNodes) {
  for (const int dies : {0, 1}) {
    nodes_.clear();
    SetUp();
    StartNodes(2);
    StartJob({0, 1});
    RunSteps(1, 1);
    TestRank& lives = *job_->ranks[1 - dies];
    lives.Begin(2, job_->Blocks(lives.manifest(), Gradients(*job_->manifest, 2)));
    nodes_[dies]->vault().TellRankGone(job_->ranks[dies]->joined().session);
    auto answer = lives.Finish(2);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->outcome, StepOutcome::kVoid);
    EXPECT_EQ(static_cast<VoidReason>(answer->frame.value), VoidReason::kRankLost);
    EXPECT_EQ(answer->frame.bucket, static_cast<uint32_t>(dies));
    job_.reset();
  }
}

TEST_F(NodesTest, ANodeThatIsGoneForGoodEndsTheJobWithItsNameAndTheStep) {
  StartNodes(2, /*peer_timeout=*/absl::Milliseconds(500));
  StartJob({0, 1});
  RunSteps(1, 2);
  const std::string gone = nodes_[1]->daemon();
  nodes_[1]->Stop();
  TestRank& lives = *job_->ranks[0];
  lives.Begin(3, job_->Blocks(lives.manifest(), Gradients(*job_->manifest, 3)));
  auto answer = lives.Finish(3);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(static_cast<VoidReason>(answer->frame.value), VoidReason::kRankLost);
  const StatusReport report = nodes_[0]->Status();
  ASSERT_EQ(report.jobs.size(), 1u);
  EXPECT_EQ(report.jobs[0].void_step, 3u);
  EXPECT_THAT(report.jobs[0].void_text, HasSubstr(gone));
  EXPECT_THAT(report.jobs[0].void_text, HasSubstr("step 3"));
}

TEST_F(NodesTest, ShardedGradientsOverDaemonsAreRefusedByName) {
  StartNodes(2);
  const Manifest manifest = Model(2);
  auto job = TestJob::StartAt({nodes_[0].get(), nodes_[1].get()}, manifest, RowSharded(manifest));
  EXPECT_EQ(job.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(job.status().message(), HasSubstr("tensor 'a'"));
}

TEST_F(NodesTest, ThoseWhoLeaveAreWaitedForAndTheNameIsFreeAgain) {
  StartNodes(2);
  StartJob({0, 1});
  RunSteps(1, 3);
  job_->Leave();
  const auto gone = [&] {
    return nodes_[0]->Status().jobs.empty() && nodes_[1]->Status().jobs.empty();
  };
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!gone() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  ASSERT_TRUE(gone());
  EXPECT_TRUE(coordinator_->GetCluster(absl::Now()).jobs.empty());
  EXPECT_EQ(nodes_[0]->vault().slabs() + nodes_[1]->vault().slabs(), 0u);
  StartJob({1, 0});
  RunSteps(1, 1);
}

}  // namespace
}  // namespace muond::testing
