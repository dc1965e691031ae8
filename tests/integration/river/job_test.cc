// The life of a job in the river: joins that are refused, ranks that die, state that is adopted,
// read, written and snapshotted.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/synchronization/notification.h"
#include "tests/support/manifests.h"
#include "tests/support/river.h"
#include "tests/support/scratch_directory.h"

namespace muond::testing {
namespace {

using ::testing::HasSubstr;
using Tensors = std::vector<std::vector<float>>;

Manifest Model(int32_t world_size, const std::string& name = "job") {
  Manifest manifest = EmptyManifest(world_size, name);
  manifest.tensors = {Tensor("a", {20, 12}), Tensor("b", {9, 30}), Tensor("c", {25}, Rule::kAdamW)};
  return manifest;
}

TestJob::GradientFn Gradients(const Manifest& manifest, uint64_t step) {
  return [&manifest, step](size_t t, int32_t) {
    return Noise(step * 31 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t])));
  };
}

Tensors Initial(const Manifest& manifest) {
  Tensors tensors;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    tensors.push_back(Noise(500 + t, static_cast<size_t>(ElementsOf(manifest.tensors[t]))));
  }
  return tensors;
}

void RunSteps(TestJob& job, uint64_t first, uint64_t last) {
  for (uint64_t step = first; step <= last; ++step) {
    auto answer = job.Step(step, Gradients(*job.manifest, step));
    ASSERT_TRUE(answer.ok()) << answer.status();
    ASSERT_EQ(answer->outcome, StepOutcome::kApplied);
  }
}

// Ten steps that nothing disturbs.
Tensors Undisturbed(uint64_t steps) {
  River river;
  auto job = TestJob::Start(river, Model(1), Replicated(Model(1)));
  EXPECT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(Model(1)));
  RunSteps(**job, 1, steps);
  return (*job)->Parameters();
}

absl::Status JoinAlone(River& river, Manifest manifest, RankManifest rank,
                       ResumeMode resume = ResumeMode::kFresh) {
  JoinCommand command;
  static std::atomic<uint64_t> ticket{uint64_t{1} << 32};
  command.ticket = ticket++;
  command.manifest = std::make_shared<Manifest>(std::move(manifest));
  command.rank = std::make_shared<RankManifest>(std::move(rank));
  command.resume = resume;
  command.deadline = absl::Now() + absl::Milliseconds(100);
  return Ask<Joined>(
             [&](Done<Joined> done) { river.loop().Join(std::move(command), std::move(done)); })
      .status();
}

TEST(JobTest, ASecondJobOfARunningNameIsRefused) {
  River river;
  auto job = TestJob::Start(river, Model(1), Replicated(Model(1)));
  ASSERT_TRUE(job.ok()) << job.status();
  const absl::Status status = JoinAlone(river, Model(1), Replicated(Model(1))[0]);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(status.message(), HasSubstr("'job' runs here with 1 ranks"));
}

TEST(JobTest, MissingRanksAreNamedAtTheDeadline) {
  River river;
  const absl::Status status = JoinAlone(river, Model(3), Replicated(Model(3))[1]);
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(status.message(), HasSubstr("missing: 0, 2"));
}

TEST(JobTest, ShardsThatLeaveAGapAreRefusedWithTheCount) {
  River river;
  RankManifest rank = Replicated(Model(1))[0];
  rank.shards[0].extent[0] = 19;
  const absl::Status status = JoinAlone(river, Model(1), rank);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("tensor 'a'"));
  EXPECT_THAT(status.message(), HasSubstr("228 of 240"));
  EXPECT_EQ(river.vault().slabs(), 0u);
}

TEST(JobTest, AdoptingWhatIsNotHeldIsNotFound) {
  River river;
  EXPECT_EQ(JoinAlone(river, Model(1), Replicated(Model(1))[0], ResumeMode::kAdopt).code(),
            absl::StatusCode::kNotFound);
}

TEST(JobTest, ARankWhoseAnswerWasLostAsksAgainAlsoAfterARestart) {
  River river;
  const Manifest manifest = Model(2);
  const std::vector<RankManifest> ranks = Replicated(manifest);
  const auto join = [&](uint64_t ticket, size_t rank, uint64_t seat, Done<Joined> done) {
    JoinCommand command;
    command.ticket = ticket;
    command.manifest = std::make_shared<Manifest>(manifest);
    command.rank = std::make_shared<RankManifest>(ranks[rank]);
    command.seat = seat;
    command.deadline = absl::Now() + absl::Minutes(1);
    river.loop().Join(std::move(command), std::move(done));
  };
  const auto ask = [&](uint64_t ticket, size_t rank, uint64_t seat) {
    return Ask<Joined>([&](Done<Joined> done) { join(ticket, rank, seat, std::move(done)); });
  };
  absl::Notification lost;
  uint64_t session = 0;
  join(1, 1, 71, [&](absl::StatusOr<Joined> joined) {
    session = joined.ok() ? joined->session : 0;
    lost.Notify();
  });
  const auto first = ask(2, 0, 70);
  ASSERT_TRUE(first.ok()) << first.status();
  lost.WaitForNotification();
  TestRank in(river, std::make_shared<Manifest>(manifest), std::make_shared<RankManifest>(ranks[0]),
              *first);
  ASSERT_TRUE(in.Attach().ok());
  for (uint64_t round = 0; round < 2; ++round) {
    const auto again = ask(3 + 10 * round, 1, 71);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->session, session);
    EXPECT_EQ(again->job_id, first->job_id);
    EXPECT_EQ(ask(4 + 10 * round, 1, 72).status().code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(ask(5 + 10 * round, 1, 0).status().code(), absl::StatusCode::kAlreadyExists);
    if (round > 0) break;
    river.Stop();
    river.Start();
  }
}

TEST(JobTest, AFrameOutOfOrderIsRefusedAndChangesNothing) {
  River river;
  auto job = TestJob::Start(river, Model(1), Replicated(Model(1)));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(Model(1)));
  RunSteps(**job, 1, 2);
  TestRank& rank = *(*job)->ranks[0];
  const auto refused_for = [&rank](Frame frame) {
    rank.Send(frame);
    auto answer = rank.Receive();
    EXPECT_TRUE(answer.ok());
    EXPECT_EQ(answer->type, FrameType::kRefused);
    EXPECT_EQ(answer->step, 3u);
    return static_cast<RefusedReason>(answer->value);
  };
  Frame frame = rank.FrameOf(FrameType::kStep);
  frame.step = 5;
  EXPECT_EQ(refused_for(frame), RefusedReason::kStepGap);
  frame.step = 3;
  frame.epoch += 1;
  EXPECT_EQ(refused_for(frame), RefusedReason::kStaleEpoch);
  frame = rank.FrameOf(FrameType::kStep);
  frame.incarnation += 1;
  EXPECT_EQ(refused_for(frame), RefusedReason::kStaleIncarnation);
  // A repeat gets the recorded outcome.
  rank.SendStep(2);
  auto again = rank.Receive();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->type, FrameType::kDone);
  EXPECT_EQ(again->step, 2u);
  RunSteps(**job, 3, 4);
  EXPECT_EQ((*job)->Parameters(), Undisturbed(4));
}

TEST(JobTest, ADeadRankVoidsTheStepAndTheNextIncarnationGoesOn) {
  River river({2});
  const Manifest manifest = Model(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(manifest));
  RunSteps(**job, 1, 3);
  // Rank 1 has said its part of step 4, rank 0 dies before it has.
  TestRank& living = *(*job)->ranks[1];
  living.Begin(4, (*job)->Blocks(living.manifest(), Gradients(manifest, 4)));
  river.vault().TellRankGone((*job)->ranks[0]->joined().session);
  auto answer = living.Finish(4);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->frame.type, FrameType::kVoid);
  EXPECT_EQ(answer->frame.value, static_cast<uint64_t>(VoidReason::kRankLost));
  EXPECT_EQ(living.page().header().poison.load(), kPoison);
  EXPECT_EQ(river.Status().jobs[0].state, JobState::kOrphaned);

  // As many ranks as before; then, dead again, another world with other shards on other devices'
  // slots.
  auto same = TestJob::Start(river, manifest, Replicated(manifest), ResumeMode::kAdopt);
  ASSERT_TRUE(same.ok()) << same.status();
  EXPECT_EQ((*same)->ranks[0]->joined().last_step, 4u);
  EXPECT_EQ((*same)->ranks[0]->joined().incarnation, 2u);
  const auto shifted = [](const Manifest& model, uint64_t step) {
    return Gradients(model, step - 1);
  };
  ASSERT_TRUE((*same)->Step(5, shifted(manifest, 5)).ok());
  ASSERT_TRUE((*same)->Step(6, shifted(manifest, 6)).ok());
  EXPECT_EQ((*same)->Parameters(), Undisturbed(5));
}

TEST(JobTest, StateIsAdoptedByOtherShards) {
  River river({3});
  Manifest manifest = Model(2);
  auto job = TestJob::Start(river, manifest, RowSharded(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(manifest));
  RunSteps(**job, 1, 3);
  river.vault().TellRankGone((*job)->ranks[1]->joined().session);
  std::vector<RankManifest> other = RowSharded(manifest);
  std::swap(other[0].shards, other[1].shards);
  absl::StatusOr<std::unique_ptr<TestJob>> next = absl::UnknownError("");
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  do {
    next = TestJob::Start(river, manifest, other, ResumeMode::kAdopt);
  } while (absl::IsAlreadyExists(next.status()) && absl::Now() < deadline);
  ASSERT_TRUE(next.ok()) << next.status();
  const uint64_t last = (*next)->ranks[0]->joined().last_step;
  EXPECT_EQ(last, 4u);  // the lost rank voided step 4
  ASSERT_TRUE((*next)->Step(5, Gradients(manifest, 4)).ok());
  EXPECT_EQ((*next)->Parameters(), Undisturbed(4));
  (*next)->Leave();
  EXPECT_EQ(river.vault().slabs(), 0u);
}

TEST(JobTest, AnOrphanedJobSurvivesTheLoopAndEndsWithItsLease) {
  River river({1, absl::Seconds(4)});
  const Manifest manifest = Model(1);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(manifest));
  RunSteps(**job, 1, 2);
  river.vault().TellRankGone((*job)->ranks[0]->joined().session);
  while (river.Status().jobs[0].state != JobState::kOrphaned) absl::SleepFor(absl::Milliseconds(1));
  (*job)->ranks[0]->Disconnect();
  river.Stop();
  river.Start();
  ASSERT_EQ(river.Status().jobs.size(), 1u);
  EXPECT_EQ(river.Status().jobs[0].state, JobState::kOrphaned);
  {
    auto next = TestJob::Start(river, manifest, Replicated(manifest), ResumeMode::kAdopt);
    ASSERT_TRUE(next.ok()) << next.status();
    ASSERT_TRUE((*next)->Step(4, Gradients(manifest, 3)).ok());
    EXPECT_EQ((*next)->Parameters(), Undisturbed(3));
    river.vault().TellRankGone((*next)->ranks[0]->joined().session);
  }
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (river.vault().slabs() > 0 && absl::Now() < deadline)
    absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(river.vault().slabs(), 0u);
  EXPECT_EQ(river.last_job_gone(), 1);
}

std::vector<float> ReadWhole(River& river, TestRank& rank, int32_t tensor, StateName field) {
  auto piece = Ask<StatePiece>([&](Done<StatePiece> done) {
    river.loop().ReadState({rank.joined().session, tensor, field, 0, kStatePieceBytesMax},
                           std::move(done));
  });
  EXPECT_TRUE(piece.ok()) << piece.status();
  std::vector<float> values(piece->data.size() / sizeof(float));
  std::memcpy(values.data(), piece->data.data(), piece->data.size());
  return values;
}

TEST(JobTest, StateThatIsReadAndWrittenElsewhereGoesOnWithEqualBits) {
  River river({2});
  auto job = TestJob::Start(river, Model(1), Replicated(Model(1)));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(Model(1)));
  RunSteps(**job, 1, 3);
  const Manifest manifest = Model(3, "other");
  auto other = TestJob::Start(river, manifest, RowSharded(manifest));
  ASSERT_TRUE(other.ok()) << other.status();
  (*other)->SetParameters((*job)->Parameters());
  TestRank& from = *(*job)->ranks[0];
  TestRank& to = *(*other)->ranks[1];
  EXPECT_EQ(ReadWhole(river, from, 0, StateName::kParameter), (*job)->Parameters()[0]);
  const std::vector<std::pair<int32_t, StateName>> fields = {{0, StateName::kMomentum},
                                                             {1, StateName::kMomentum},
                                                             {2, StateName::kExpAvg},
                                                             {2, StateName::kExpAvgSq},
                                                             {2, StateName::kStep}};
  for (const auto& [tensor, field] : fields) {
    // In two pieces that cut an element.
    for (const uint64_t begin : {uint64_t{0}, uint64_t{6}}) {
      auto piece = Ask<StatePiece>([&, t = tensor, f = field](Done<StatePiece> done) {
        river.loop().ReadState(
            {from.joined().session, t, f, begin, begin == 0 ? 6 : kStatePieceBytesMax},
            std::move(done));
      });
      ASSERT_TRUE(piece.ok()) << piece.status();
      auto written = Ask<std::monostate>([&, t = tensor, f = field](Done<std::monostate> done) {
        river.loop().WriteState({to.joined().session, t, f, begin, piece->data}, std::move(done));
      });
      ASSERT_TRUE(written.ok()) << written.status();
    }
  }
  ASSERT_TRUE((*other)->Step(1, Gradients(manifest, 4)).ok());
  EXPECT_EQ((*other)->Parameters(), Undisturbed(4));
}

TEST(JobTest, AFieldThatTheRuleDoesNotKeepIsRefusedByName) {
  River river;
  auto job = TestJob::Start(river, Model(1), Replicated(Model(1)));
  ASSERT_TRUE(job.ok()) << job.status();
  auto piece = Ask<StatePiece>([&](Done<StatePiece> done) {
    river.loop().ReadState({(*job)->ranks[0]->joined().session, 0, StateName::kExpAvg, 0, 100},
                           std::move(done));
  });
  EXPECT_EQ(piece.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(piece.status().message(),
              HasSubstr("tensor 'a' is stepped by muon, which keeps no exp_avg"));
}

TEST(JobTest, ASnapshotIsASafetensorsFileWithAManifestBehindIt) {
  River river({2});
  const Manifest manifest = Model(2);
  auto job = TestJob::Start(river, manifest, RowSharded(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  (*job)->SetParameters(Initial(manifest));
  RunSteps(**job, 1, 2);
  ScratchDirectory scratch;
  auto taken = Ask<SnapshotTaken>([&](Done<SnapshotTaken> done) {
    river.loop().Snapshot({0, "job", scratch.path()}, std::move(done));
  });
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(taken->step, 2u);
  EXPECT_EQ(taken->manifest_path, scratch.path() + "/step-2.json");
  std::ifstream file(scratch.path() + "/step-2.safetensors", std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  const std::string data = bytes.str();
  EXPECT_EQ(data.size(), taken->bytes);
  uint64_t header = 0;
  std::memcpy(&header, data.data(), sizeof header);
  EXPECT_EQ((8 + header) % 8, 0u);
  EXPECT_THAT(data.substr(8, header),
              HasSubstr("\"a\":{\"dtype\":\"F32\",\"shape\":[20,12],\"data_offsets\":[0,960]}"));
  EXPECT_THAT(data.substr(8, header), HasSubstr("\"c.step\":{\"dtype\":\"F64\",\"shape\":[]"));
  const std::vector<float> a = (*job)->Parameters()[0];
  EXPECT_EQ(std::memcmp(data.data() + 8 + header, a.data(), 960), 0);
  auto nowhere = Ask<SnapshotTaken>([&](Done<SnapshotTaken> done) {
    river.loop().Snapshot({0, "job", scratch.path() + "/none"}, std::move(done));
  });
  EXPECT_EQ(nowhere.status().code(), absl::StatusCode::kNotFound);
  RunSteps(**job, 3, 3);
}

TEST(JobTest, TwoJobsStepSideBySideWithTheBitsOfEachAlone) {
  River river({2});
  const Manifest one = Model(1, "one"), two = Model(2, "two");
  auto first = TestJob::Start(river, one, Replicated(one));
  auto second = TestJob::Start(river, two, RowSharded(two));
  ASSERT_TRUE(first.ok() && second.ok());
  (*first)->SetParameters(Initial(one));
  (*second)->SetParameters(Initial(two));
  for (uint64_t step = 1; step <= 6; ++step) {
    for (auto* job : {&**first, &**second}) {
      for (auto& rank : job->ranks)
        rank->Begin(step, job->Blocks(rank->manifest(), Gradients(*job->manifest, step)));
    }
    for (auto* job : {&**first, &**second}) {
      for (auto& rank : job->ranks) ASSERT_TRUE(rank->Finish(step).ok());
    }
  }
  EXPECT_EQ((*first)->Parameters(), Undisturbed(6));
  EXPECT_EQ((*second)->Parameters(), Undisturbed(6));
}

TEST(JobTest, ARankThatLeftVoidsTheNextStepOfTheOthers) {
  River river;
  const Manifest manifest = Model(2);
  auto job = TestJob::Start(river, manifest, Replicated(manifest));
  ASSERT_TRUE(job.ok()) << job.status();
  RunSteps(**job, 1, 1);
  auto left = Ask<std::monostate>([&](Done<std::monostate> done) {
    river.loop().Detach((*job)->ranks[0]->joined().session, std::move(done));
  });
  ASSERT_TRUE(left.ok());
  TestRank& other = *(*job)->ranks[1];
  other.Begin(2, (*job)->Blocks(other.manifest(), Gradients(manifest, 2)));
  auto answer = other.Finish(2);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->frame.value, static_cast<uint64_t>(VoidReason::kRankLost));
}

}  // namespace
}  // namespace muond::testing
