// The river from gradient to parameter, in one process: real step loop, real slabs, CPU devices; ranks over the loopback carrier.
#include "tests/support/river.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/optim/muon.h"
#include "tests/support/manifests.h"

namespace muond::testing {
namespace {

using Tensors = std::vector<std::vector<float>>;

// Two Muon matrices (tall, wide), a stack of three, a bias and an embedding for AdamW; three buckets.
Manifest SmallModel(int32_t world_size, const std::string& name = "small") {
  Manifest manifest = EmptyManifest(world_size, name);
  manifest.tensors = {Tensor("tall", {48, 16}), Tensor("wide", {8, 40}),
                      Tensor("experts", {3, 12, 20}, Rule::kMuon, 2),
                      Tensor("bias", {37}, Rule::kAdamW),
                      Tensor("embedding", {50, 9}, Rule::kAdamW)};
  manifest.tensors[2].matrix_rows = {12, 12, 12};
  manifest.buckets = 3;
  manifest.tensors[1].bucket = 1;
  manifest.tensors[2].bucket = 1;
  manifest.tensors[4].bucket = 2;
  return manifest;
}

Tensors InitialParameters(const Manifest& manifest) {
  Tensors tensors;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    tensors.push_back(Noise(1000 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t])), 0.1f));
  }
  return tensors;
}

TestJob::GradientFn GradientsOf(const Manifest& manifest, uint64_t step) {
  return [&manifest, step](size_t tensor, int32_t replica) {
    return Noise(step * 100 + tensor * 7 + static_cast<uint64_t>(replica) * 13,
                 static_cast<size_t>(ElementsOf(manifest.tensors[tensor])));
  };
}

// Steps 1 .. steps of a job; its final parameters.
Tensors Train(River& river, Manifest manifest, std::vector<RankManifest> ranks, int steps,
              const StepChoice& choice = {}) {
  auto job = TestJob::Start(river, manifest, std::move(ranks));
  EXPECT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(InitialParameters(manifest));
  for (int step = 1; step <= steps; ++step) {
    auto answer = (*job)->Step(static_cast<uint64_t>(step),
                               GradientsOf(manifest, static_cast<uint64_t>(step)), choice);
    EXPECT_TRUE(answer.ok()) << answer.status();
    if (!answer.ok()) break;
    EXPECT_EQ(answer->outcome, StepOutcome::kApplied);
  }
  Tensors result = (*job)->Parameters();
  (*job)->Leave();
  return result;
}

// A matrix stepped by the engine itself, without a daemon.
std::vector<float> StepInProcess(int64_t rows, int64_t cols, std::vector<float> parameter,
                                 int steps, const std::function<std::vector<float>(int)>& gradient,
                                 const StepChoice& choice) {
  auto backend = CreateCpuBackend({1, 0});
  auto stream = (*backend)->devices()[0]->CreateStream();
  auto ops = CreateCpuOps();
  const auto table = FindCoefficientTable("jordan", 0);
  std::vector<float> momentum(parameter.size(), 0), next_momentum(parameter.size()),
      next(parameter.size());
  for (int step = 1; step <= steps; ++step) {
    std::vector<float> g = gradient(step);
    MuonScalars scalars{choice.lr,
                        choice.weight_decay,
                        choice.momentum,
                        1e-7,
                        UpdateScaleFactor(UpdateScale::kOriginal, rows, cols),
                        1,
                        true};
    MuonItem item;
    item.rows = rows;
    item.cols = cols;
    item.gradient = {{g.data(), 0, 0, rows, cols, cols, DType::kFloat32, 0}};
    item.parameter_in = {{parameter.data(), 0, 0, rows, cols, cols, DType::kFloat32, 0}};
    item.parameter_out = {next.data(), rows, cols, cols, DType::kFloat32};
    item.momentum_in = momentum.data();
    item.momentum_out = next_momentum.data();
    item.scalars = &scalars;
    item.table = &*table;
    std::vector<char> workspace(MuonWorkspaceBytes(*ops, {&item, 1}, UINT64_MAX));
    EXPECT_TRUE(MuonStep(*ops, **stream, {&item, 1}, workspace.data(), workspace.size()).ok());
    EXPECT_TRUE((*stream)->Synchronize().ok());
    parameter.swap(next);
    momentum.swap(next_momentum);
  }
  return parameter;
}

bool SameBits(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0;
}

void ExpectSameBits(const Manifest& manifest, const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t)
    EXPECT_TRUE(SameBits(a[t], b[t])) << manifest.tensors[t].name;
}

TEST(RiverTest, OneMatrixOneRankOneStepGivesTheEnginesBits) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("w", {24, 10})};
  River river;
  const Tensors got = Train(river, manifest, Replicated(manifest), 1);
  const auto gradient = [&](int step) {
    return GradientsOf(manifest, static_cast<uint64_t>(step))(0, 0);
  };
  EXPECT_TRUE(
      SameBits(got[0], StepInProcess(24, 10, InitialParameters(manifest)[0], 1, gradient, {})));
}

TEST(RiverTest, MomentumTravelsFromStepToStep) {
  Manifest manifest = EmptyManifest(1);
  manifest.tensors = {Tensor("w", {10, 24})};
  River river;
  const Tensors got = Train(river, manifest, Replicated(manifest), 7);
  const auto gradient = [&](int step) {
    return GradientsOf(manifest, static_cast<uint64_t>(step))(0, 0);
  };
  EXPECT_TRUE(
      SameBits(got[0], StepInProcess(10, 24, InitialParameters(manifest)[0], 7, gradient, {})));
}

TEST(RiverTest, EqualReplicasGiveTheBitsOfOneRank) {
  River river;
  const Manifest one = SmallModel(1, "one");
  const Tensors expected = Train(river, one, Replicated(one), 3);
  for (const int32_t world : {2, 4}) {
    const Manifest manifest = SmallModel(world, "ddp");
    ExpectSameBits(manifest, Train(river, manifest, Replicated(manifest), 3), expected);
  }
}

TEST(RiverTest, RowShardsWithShortAndEmptyOnesGiveTheSameBits) {
  River river;
  const Manifest one = SmallModel(1, "one");
  const Tensors expected = Train(river, one, Replicated(one), 3);
  for (const int32_t world : {2, 3, 5, 7}) {
    const Manifest manifest = SmallModel(world, "fsdp");
    ExpectSameBits(manifest, Train(river, manifest, RowSharded(manifest), 3), expected);
  }
}

// Three ranks hold rectangles: rank 0 the left columns, rank 1 and 2 the upper and lower right ones; 1-D tensors go to rank 1.
std::vector<RankManifest> Rectangles(const Manifest& manifest) {
  std::vector<RankManifest> ranks(3);
  for (int32_t r = 0; r < 3; ++r) ranks[r].rank = r;
  for (int32_t t = 0; t < static_cast<int32_t>(manifest.tensors.size()); ++t) {
    const std::vector<int64_t>& shape = manifest.tensors[t].shape;
    const size_t last = shape.size() - 1;
    if (last == 0) {
      ranks[1].shards.push_back(Whole(manifest, t));
      continue;
    }
    const int64_t left = shape[last] / 3, upper = shape[last - 1] / 4;
    ShardSpec a = Whole(manifest, t), b = a, c = a;
    a.extent[last] = left;
    b.offset[last] = c.offset[last] = left;
    b.extent[last] = c.extent[last] = shape[last] - left;
    b.extent[last - 1] = upper;
    c.offset[last - 1] = upper;
    c.extent[last - 1] = shape[last - 1] - upper;
    ranks[0].shards.push_back(a);
    ranks[1].shards.push_back(b);
    ranks[2].shards.push_back(c);
  }
  return ranks;
}

TEST(RiverTest, RectanglesOfThreeRanksGiveTheSameBits) {
  River river;
  const Manifest one = SmallModel(1, "one");
  const Manifest manifest = SmallModel(3, "rectangles");
  ExpectSameBits(manifest, Train(river, manifest, Rectangles(manifest), 3),
                 Train(river, one, Replicated(one), 3));
}

TEST(RiverTest, AnyNumberOfDevicesGivesTheSameBits) {
  const Manifest manifest = SmallModel(2);
  Tensors expected;
  for (const int devices : {1, 2, 4}) {
    River river({devices});
    const Tensors got = Train(river, manifest, Replicated(manifest), 3);
    if (devices == 1) {
      expected = got;
    } else {
      ExpectSameBits(manifest, got, expected);
    }
  }
}

std::vector<RankManifest> Summed(const Manifest& manifest) {
  std::vector<RankManifest> ranks = Replicated(manifest);
  for (RankManifest& rank : ranks) {
    for (ShardSpec& shard : rank.shards) {
      shard.replica_kind = ReplicaKind::kSum;
      shard.divisor = manifest.world_size;
    }
  }
  return ranks;
}

TEST(RiverTest, SummedReplicasStepOnTheirMean) {
  River river;
  const Manifest manifest = SmallModel(2, "sum");
  const Tensors got = Train(river, manifest, Summed(manifest), 2);
  const Manifest one = SmallModel(1, "one");
  auto job = TestJob::Start(river, one, Replicated(one));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(InitialParameters(one));
  for (uint64_t step = 1; step <= 2; ++step) {
    const auto each = GradientsOf(manifest, step);
    const auto mean = [&](size_t tensor, int32_t) {
      std::vector<float> sum = each(tensor, 0);
      const std::vector<float> other = each(tensor, 1);
      for (size_t i = 0; i < sum.size(); ++i) sum[i] = (sum[i] + other[i]) * 0.5f;
      return sum;
    };
    ASSERT_TRUE((*job)->Step(step, mean).ok());
  }
  // Halving is exact, so the order of halving and momentum does not show.
  ExpectSameBits(manifest, got, (*job)->Parameters());
}

TEST(RiverTest, AReplicaWithoutAGradientCountsAsZeros) {
  River river;
  const Manifest manifest = SmallModel(2, "partly");
  auto job = TestJob::Start(river, manifest, Summed(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  const Manifest other = SmallModel(2, "zeros");
  auto zeros = TestJob::Start(river, other, Summed(other));
  ASSERT_TRUE(zeros.ok()) << zeros.status();
  for (auto* one : {&*job, &*zeros}) (*one)->SetParameters(InitialParameters(manifest));
  for (uint64_t step = 1; step <= 3; ++step) {
    const auto each = GradientsOf(manifest, step);
    const bool lacks = step == 2;
    ASSERT_TRUE((*job)
                    ->Step(step,
                           [&](size_t t, int32_t r) {
                             return lacks && r == 1 ? std::vector<float>() : each(t, r);
                           })
                    .ok());
    ASSERT_TRUE((*zeros)
                    ->Step(step,
                           [&](size_t t, int32_t r) {
                             return lacks && r == 1 ? std::vector<float>(each(t, r).size(), 0.0f)
                                                    : each(t, r);
                           })
                    .ok());
  }
  ExpectSameBits(manifest, (*job)->Parameters(), (*zeros)->Parameters());
}

TEST(RiverTest, ATensorWithoutGradientIsSkippedDecayIncluded) {
  River river;
  const Manifest manifest = SmallModel(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  const Tensors before = InitialParameters(manifest);
  (*job)->SetParameters(before);
  const auto gradient = GradientsOf(manifest, 1);
  // "wide" (Muon) and "bias" (one run of an AdamW chunk) have none.
  auto answer = (*job)->Step(1, [&](size_t t, int32_t r) {
    return t == 1 || t == 3 ? std::vector<float>() : gradient(t, r);
  });
  ASSERT_TRUE(answer.ok()) << answer.status();
  const Tensors after = (*job)->Parameters();
  EXPECT_TRUE(SameBits(after[1], before[1]));
  EXPECT_TRUE(SameBits(after[3], before[3]));
  EXPECT_FALSE(SameBits(after[0], before[0]));
  EXPECT_FALSE(SameBits(after[4], before[4]));
}

TEST(RiverTest, AStepWithoutAnyGradientIsOverAtOnce) {
  River river;
  const Manifest manifest = SmallModel(1);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  const Tensors before = InitialParameters(manifest);
  (*job)->SetParameters(before);
  auto answer = (*job)->Step(1, [](size_t, int32_t) { return std::vector<float>(); });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outcome, StepOutcome::kApplied);
  ExpectSameBits(manifest, (*job)->Parameters(), before);
}

TEST(RiverTest, NaNInTheLastMatrixAppliesNothing) {
  River river({2});
  const Manifest manifest = SmallModel(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(InitialParameters(manifest));
  ASSERT_TRUE((*job)->Step(1, GradientsOf(manifest, 1)).ok());
  const Tensors before = (*job)->Parameters();
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const uint64_t step = std::isnan(bad) ? 2 : 3;
    const auto gradient = GradientsOf(manifest, step);
    auto answer = (*job)->Step(step, [&](size_t t, int32_t r) {
      std::vector<float> g = gradient(t, r);
      if (t == 2) g.back() = bad;  // the last Muon matrix's last element
      return g;
    });
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->outcome, StepOutcome::kVoid);
    EXPECT_EQ(answer->frame.type, FrameType::kVoid);
    EXPECT_EQ(answer->frame.value, static_cast<uint64_t>(VoidReason::kNonFinite));
    EXPECT_EQ(answer->frame.bucket, 2u);
    ExpectSameBits(manifest, (*job)->Parameters(), before);
  }
  // The state is untouched too: the next step is what it would have been.
  auto answer = (*job)->Step(4, GradientsOf(manifest, 2));
  ASSERT_TRUE(answer.ok()) << answer.status();
  River fresh;
  ExpectSameBits(manifest, (*job)->Parameters(), Train(fresh, manifest, Replicated(manifest), 2));
}

TEST(RiverTest, ClipScalesEveryGradientByTheGlobalNorm) {
  const Manifest manifest = SmallModel(2);
  double squares = 0;
  const auto gradient = GradientsOf(manifest, 1);
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    for (const float g : gradient(t, 0)) squares += static_cast<double>(g) * g;
  }
  StepChoice clipped;
  clipped.clip_norm = 1.5;
  const double factor = clipped.clip_norm / (std::sqrt(squares) + 1e-6);
  ASSERT_LT(factor, 1);
  River river;
  const Tensors got = Train(river, manifest, Replicated(manifest), 1, clipped);
  // AdamW's first step shows the factor in exp_avg; the parameters show that both ranks and shards agree on it.
  const Manifest sharded = SmallModel(3, "sharded");
  ExpectSameBits(manifest, got, Train(river, sharded, Rectangles(sharded), 1, clipped));
  StepChoice loose = clipped;
  loose.clip_norm = 1e6;
  River other;
  ExpectSameBits(manifest, Train(other, manifest, Replicated(manifest), 1, loose),
                 Train(river, manifest, Replicated(manifest), 1));
}

TEST(RiverTest, RanksWithDifferentLearningRatesVoidTheStep) {
  River river;
  const Manifest manifest = SmallModel(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  const Tensors before = InitialParameters(manifest);
  (*job)->SetParameters(before);
  const auto gradient = GradientsOf(manifest, 1);
  StepChoice other;
  other.lr = 0.03;
  (*job)->ranks[0]->Begin(1, (*job)->Blocks((*job)->ranks[0]->manifest(), gradient));
  (*job)->ranks[1]->Begin(1, (*job)->Blocks((*job)->ranks[1]->manifest(), gradient), other);
  for (auto& rank : (*job)->ranks) {
    auto answer = rank->Finish(1);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->outcome, StepOutcome::kVoid);
    EXPECT_EQ(answer->frame.value, static_cast<uint64_t>(VoidReason::kSheetsDiffer));
  }
  ExpectSameBits(manifest, (*job)->Parameters(), before);
}

TEST(RiverTest, EqualReplicasWithDifferentGradientsVoidTheStep) {
  River river;
  const Manifest manifest = SmallModel(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  const auto gradient = GradientsOf(manifest, 1);
  (*job)->ranks[0]->Begin(1, (*job)->Blocks((*job)->ranks[0]->manifest(), gradient));
  (*job)->ranks[1]->Begin(1, (*job)->Blocks((*job)->ranks[1]->manifest(), [&](size_t t, int32_t r) {
    std::vector<float> g = gradient(t, r);
    if (t == 1) g[5] += 1e-6f;
    return g;
  }));
  for (auto& rank : (*job)->ranks) {
    auto answer = rank->Finish(1);
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(answer->frame.value, static_cast<uint64_t>(VoidReason::kReplicasDiffer));
    EXPECT_EQ(answer->frame.bucket, 1u);
  }
}

TEST(RiverTest, ALaterAttemptReplacesTheGradient) {
  River river;
  const Manifest manifest = SmallModel(1);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(InitialParameters(manifest));
  TestRank& rank = *(*job)->ranks[0];
  // Announced with NaN, then again with what counts.
  for (size_t b = 0; b < 5; ++b) rank.gradient(b)[0] = std::numeric_limits<float>::quiet_NaN();
  for (uint32_t bucket = 0; bucket < 3; ++bucket) rank.Announce(1, bucket, 0);
  rank.Begin(1, (*job)->Blocks(rank.manifest(), GradientsOf(manifest, 1)), {}, /*attempt=*/1);
  auto answer = rank.Finish(1);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->outcome, StepOutcome::kApplied);
  River fresh;
  ExpectSameBits(manifest, (*job)->Parameters(), Train(fresh, manifest, Replicated(manifest), 1));
}

TEST(RiverTest, ALoopThatStartsOverTheSameSlabsGoesOnWithEqualBits) {
  const Manifest manifest = SmallModel(2);
  River calm;
  const Tensors expected = Train(calm, manifest, Replicated(manifest), 6);
  River river({2});
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(InitialParameters(manifest));
  for (uint64_t step = 1; step <= 6; ++step) {
    if (step % 2 == 0) {
      // Gradients and sheets of the step are in the slabs, nobody has said so yet when the loop ends.
      for (auto& rank : (*job)->ranks) rank->Disconnect();
      river.Stop();
      river.Start();
      for (auto& rank : (*job)->ranks) ASSERT_TRUE(rank->Connect().ok());
    }
    auto answer = (*job)->Step(step, GradientsOf(manifest, step));
    ASSERT_TRUE(answer.ok()) << answer.status();
  }
  ExpectSameBits(manifest, (*job)->Parameters(), expected);
  (*job)->Leave();
  EXPECT_EQ(river.vault().slabs(), 0u);
  EXPECT_EQ(river.last_job_gone(), 1);
}

}  // namespace
}  // namespace muond::testing
