// A rank whose Join was answered, and the answer lost on its way, while the others were already in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "client/core/client.h"
#include "proto/stubs/daemon_stub.h"
#include "tests/support/cut_door.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/manifests.h"
#include "tests/support/real_job.h"

namespace muond {
namespace {

using ::muond::testing::Replicated;
using ::muond::testing::SmallManifest;

class LostReplyTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Client>> Attach(const std::string& endpoint, int32_t rank) {
    AttachOptions options;
    options.endpoint = endpoint;
    options.attempt = 5;
    return AttachToDaemon(options, manifest_, Replicated(manifest_)[static_cast<size_t>(rank)]);
  }
  // Until one rank waits in the daemon for the other.
  bool OneWaits() {
    auto stub = DaemonStub::Create(daemon_.endpoint());
    return Eventually([&] {
      const auto status = (*stub)->GetStatus();
      return status.ok() && status->jobs.size() == 1 && status->jobs[0].state == "joining";
    });
  }
  void StepTogether(Client& one, Client& two) {
    StepSettings settings;
    settings.groups = {{0.02, 0.1, 0.95, 1e-7, 0, 0, 1}, {1e-3, 0.01, 0, 1e-8, 0.9, 0.95, 0}};
    for (Client* client : {&one, &two}) ASSERT_TRUE(client->Commit(settings).ok());
    for (Client* client : {&one, &two}) {
      const auto result = client->Wait(absl::Minutes(1));
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_TRUE(result->applied);
    }
  }

  DaemonUnderTest daemon_{MUOND_BINARY};
  const Manifest manifest_ = SmallManifest(2, "lost");
};

TEST_F(LostReplyTest, TheRankAsksAgainAndGetsItsPlace) {
  ASSERT_TRUE(daemon_.Serves()) << daemon_.log();
  CutDoor door(daemon_.directory() + "/door.sock", daemon_.directory() + "/grpc.sock");
  absl::StatusOr<std::unique_ptr<Client>> unlucky;
  std::thread asking([&] { unlucky = Attach(door.endpoint(), 1); });
  const bool waits = OneWaits();
  door.Hold();
  const auto lucky = Attach(daemon_.endpoint(), 0);
  door.Cut();
  asking.join();
  ASSERT_TRUE(waits) << daemon_.log();
  ASSERT_TRUE(lucky.ok()) << lucky.status();
  ASSERT_TRUE(unlucky.ok()) << unlucky.status();
  EXPECT_EQ((*unlucky)->info().job, (*lucky)->info().job);
  StepTogether(**lucky, **unlucky);
  EXPECT_TRUE((*unlucky)->Detach().ok());
  EXPECT_TRUE((*lucky)->Detach().ok());
}

TEST_F(LostReplyTest, ASuccessorOfTheStepperKnowsThePlaceToo) {
  ASSERT_TRUE(daemon_.Serves()) << daemon_.log();
  CutDoor door(daemon_.directory() + "/door.sock", daemon_.directory() + "/grpc.sock");
  absl::StatusOr<std::unique_ptr<Client>> unlucky;
  std::thread asking([&] { unlucky = Attach(door.endpoint(), 1); });
  const bool waits = OneWaits();
  door.Hold();
  const auto lucky = Attach(daemon_.endpoint(), 0);
  ::kill(daemon_.stepper(), SIGKILL);
  door.Cut();
  asking.join();
  ASSERT_TRUE(waits) << daemon_.log();
  ASSERT_TRUE(lucky.ok()) << lucky.status();
  ASSERT_TRUE(unlucky.ok()) << unlucky.status();
  StepTogether(**lucky, **unlucky);
}

TEST_F(LostReplyTest, NobodyElseGetsIt) {
  ASSERT_TRUE(daemon_.Serves()) << daemon_.log();
  absl::StatusOr<std::unique_ptr<Client>> one;
  std::thread asking([&] { one = Attach(daemon_.endpoint(), 1); });
  const auto zero = Attach(daemon_.endpoint(), 0);
  asking.join();
  ASSERT_TRUE(zero.ok()) << zero.status();
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(Attach(daemon_.endpoint(), 1).status().code(), absl::StatusCode::kAlreadyExists);
  StepTogether(**zero, **one);
}

}  // namespace
}  // namespace muond
