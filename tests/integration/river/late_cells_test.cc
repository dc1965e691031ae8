// Ranks whose devices write the cells: frames come first, or not at all, and nobody is woken by a cell.
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "tests/support/manifests.h"
#include "tests/support/river.h"

namespace muond::testing {
namespace {

using Tensors = std::vector<std::vector<float>>;

Manifest Model() {
  Manifest manifest = EmptyManifest(1, "late");
  manifest.tensors = {Tensor("tall", {48, 16}), Tensor("wide", {8, 40}),
                      Tensor("embedding", {50, 9}, Rule::kAdamW)};
  manifest.buckets = 2;
  manifest.tensors[1].bucket = 1;
  return manifest;
}

Tensors GradientsOf(const Manifest& manifest, uint64_t step) {
  Tensors tensors;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    tensors.push_back(Noise(step * 100 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t]))));
  }
  return tensors;
}

// Looks at the cell alone, as a stream does.
bool OverInTime(TestRank& rank, uint64_t step) {
  const absl::Time end = absl::Now() + absl::Seconds(10);
  while (rank.page().step_over(0).load(std::memory_order_acquire) >> 8 < step) {
    if (absl::Now() > end) return false;
  }
  return true;
}

class LateCellsTest : public ::testing::Test {
 protected:
  // The rank says which device its memory lies on, so its cells are watched.
  std::unique_ptr<TestJob> Start(River& river, bool late) {
    const Manifest manifest = Model();
    std::vector<RankManifest> ranks = Replicated(manifest);
    if (late) ranks[0].device_uuid = river.backend().devices()[0]->info().uuid;
    auto job = TestJob::Start(river, manifest, ranks);
    EXPECT_TRUE(job.ok()) << job.status();
    (*job)->SetParameters({Noise(1, 48 * 16), Noise(2, 8 * 40), Noise(3, 50 * 9)});
    (*job)->ranks[0]->cells_come_later = late;
    return *std::move(job);
  }

  Tensors Plain(int steps) {
    River river;
    auto job = Start(river, false);
    for (uint64_t step = 1; step <= static_cast<uint64_t>(steps); ++step) {
      job->ranks[0]->Begin(step, GradientsOf(*job->manifest, step));
      EXPECT_TRUE(job->ranks[0]->Finish(step).ok());
    }
    return job->Parameters();
  }
};

TEST_F(LateCellsTest, StepsFollowEachOtherThoughFramesComeBeforeTheirCells) {
  River river;
  auto job = Start(river, true);
  TestRank& rank = *job->ranks[0];
  constexpr int kSteps = 200;
  for (uint64_t step = 1; step <= kSteps; ++step) {
    rank.Begin(step, GradientsOf(*job->manifest, step));
    absl::SleepFor(absl::Microseconds(step % 5 * 200));
    rank.StoreGradientCell(step, step % 2);
    absl::SleepFor(absl::Microseconds(step % 3 * 300));
    rank.StoreGradientCell(step, 1 - step % 2);
    ASSERT_TRUE(OverInTime(rank, step)) << "step " << step;
  }
  EXPECT_EQ(job->Parameters(), Plain(kSteps));
}

TEST_F(LateCellsTest, AStepperThatStartsAgainNeedsNoFrameOfARankWhoseHostWaits) {
  River river;
  auto job = Start(river, true);
  TestRank& rank = *job->ranks[0];
  for (uint64_t step = 1; step <= 3; ++step) {
    rank.Begin(step, GradientsOf(*job->manifest, step));
    if (step == 2) {  // dies before it has read a word
      rank.Disconnect();
      river.Stop();
      river.Start();
    }
    rank.StoreGradientCell(step, 0);
    rank.StoreGradientCell(step, 1);
    ASSERT_TRUE(OverInTime(rank, step)) << "step " << step;
    if (step == 2) {
      ASSERT_TRUE(rank.Connect().ok());
    }
  }
  EXPECT_EQ(job->Parameters(), Plain(3));
}

TEST_F(LateCellsTest, ARankOnADeviceThatIsNotHereIsRefusedByName) {
  River river;
  const Manifest manifest = Model();
  std::vector<RankManifest> ranks = Replicated(manifest);
  ranks[0].device_uuid = "GPU-0";
  auto job = TestJob::Start(river, manifest, ranks);
  ASSERT_FALSE(job.ok());
  EXPECT_EQ(job.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(job.status().message().find("GPU-0"), std::string::npos) << job.status();
}

}  // namespace
}  // namespace muond::testing
