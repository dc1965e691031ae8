// Ranks of one job that wait at several daemons.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/coordinator/coordinator.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(1000);

class OffersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto coordinator = Coordinator::Create(CreateMemoryStore(), CoordinatorOptions{}, kStart);
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
    for (std::string& daemon : daemons_) {
      RegisterCall call;
      call.endpoint = "unix:/d";
      call.devices = {{"", 0, "", "cpu", "cpu", uint64_t{1} << 34, uint64_t{1} << 34}};
      auto reply = coordinator_->Register(call, kStart);
      ASSERT_TRUE(reply.ok()) << reply.status();
      daemon = reply->daemon;
    }
    manifest_ = EmptyManifest(2);
    for (int i = 0; i < 6; ++i)
      manifest_.tensors.push_back(Tensor("w" + std::to_string(i), {64, 64}));
  }
  // Rank `rank` waits at daemon `at`.
  OfferCall Offer(int at, int rank) const {
    OfferCall call;
    call.daemon = daemons_[at];
    call.offer = 100 + at;
    call.shard_address = "10.0.0." + std::to_string(at) + ":7";
    call.manifest = manifest_;
    call.ranks = {Replicated(manifest_)[rank]};
    return call;
  }
  OfferCall Again(int at) const {
    OfferCall call = Offer(at, 0);
    call.manifest.reset();
    call.ranks.clear();
    return call;
  }

  std::unique_ptr<Coordinator> coordinator_;
  std::string daemons_[2];
  Manifest manifest_;
};

TEST_F(OffersTest, TheJobIsPlannedOverAllDaemonsOnceItsWorldWaits) {
  auto first = coordinator_->OfferRanks(Offer(1, 0), kStart);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_FALSE(first->complete);
  auto second = coordinator_->OfferRanks(Offer(0, 1), kStart);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE(second->complete);
  first = coordinator_->OfferRanks(Again(1), kStart);
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(first->complete);

  EXPECT_EQ(first->job.job, second->job.job);
  EXPECT_EQ(first->members.secret, second->members.secret);
  EXPECT_EQ(first->members.secret.size(), kJobSecretBytes);
  ASSERT_EQ(first->members.members.size(), 2u);
  const std::vector<JobMember>& members = first->members.members;
  EXPECT_EQ(members[first->members.member_of_rank[0]].daemon, daemons_[1]);
  EXPECT_EQ(members[first->members.member_of_rank[1]].daemon, daemons_[0]);
  EXPECT_EQ(members[first->members.member_of_rank[1]].shard_address, "10.0.0.0:7");
  const Plan& plan = first->job.plan;
  EXPECT_EQ(plan.devices[plan.items[0].owner].daemon, members[0].daemon);
  int owned[2] = {0, 0};
  for (const PlanItem& item : plan.items)
    ++owned[plan.devices[item.owner].daemon == daemons_[0] ? 0 : 1];
  EXPECT_EQ(owned[0], 3);
  EXPECT_EQ(owned[1], 3);
}

TEST_F(OffersTest, ManifestsThatDifferRefuseEverybody) {
  ASSERT_TRUE(coordinator_->OfferRanks(Offer(0, 0), kStart).ok());
  manifest_.tensors[3].shape = {64, 32};
  const auto second = coordinator_->OfferRanks(Offer(1, 1), kStart);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(second.status().message(), HasSubstr("w3"));
  const auto first = coordinator_->OfferRanks(Again(0), kStart);
  EXPECT_THAT(first.status().message(), HasSubstr("w3"));
}

TEST_F(OffersTest, ARankThatWaitsTwiceRefusesTheNewcomerAlone) {
  ASSERT_TRUE(coordinator_->OfferRanks(Offer(0, 0), kStart).ok());
  const auto second = coordinator_->OfferRanks(Offer(1, 0), kStart);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(second.status().message(), HasSubstr("rank 0"));
  EXPECT_TRUE(coordinator_->OfferRanks(Again(0), kStart).ok());
}

TEST_F(OffersTest, ASilentOfferIsGone) {
  ASSERT_TRUE(coordinator_->OfferRanks(Offer(0, 0), kStart).ok());
  const absl::Time later = kStart + kOfferSilence + absl::Seconds(1);
  const auto second = coordinator_->OfferRanks(Offer(1, 1), later);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_FALSE(second->complete);
  EXPECT_EQ(coordinator_->OfferRanks(Again(0), later).status().code(), absl::StatusCode::kNotFound);
  const auto again = coordinator_->OfferRanks(Offer(0, 0), later);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(again->complete);
}

}  // namespace
}  // namespace muond
