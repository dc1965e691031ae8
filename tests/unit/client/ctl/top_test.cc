// What `muonctl top` shows of a sample and the one before it.
#include "client/ctl/top.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kHere = "0123456789abcdef0123456789abcdef";
constexpr const char* kElsewhere = "fedcba9876543210fedcba9876543210";

// Two daemons, of which one is reached, each with a job.
TopSample Sample(absl::Time at, uint64_t step) {
  TopSample sample;
  sample.at = at;
  ClusterStatus cluster;
  cluster.coordinator = "c1:7070";
  for (const char* id : {kHere, kElsewhere}) {
    DaemonEntry daemon;
    daemon.daemon = id;
    daemon.endpoint = id == kHere ? "unix:/here.sock" : "unix:/elsewhere.sock";
    daemon.devices.resize(2);
    cluster.daemons.push_back(daemon);
  }
  JobEntry near, far;
  near.job = 1;
  near.name = "near";
  near.daemon = kHere;
  near.imbalance = 1.25;
  far.job = 2;
  far.name = "far";
  far.daemon = kElsewhere;
  far.orphaned = true;
  cluster.jobs = {near, far};
  sample.cluster = cluster;
  TopDaemon here;
  here.endpoint = "unix:/here.sock";
  here.status.daemon = kHere;
  here.status.devices.resize(1);
  here.status.devices[0].busy_share = 0.5;
  JobStatus job;
  job.job = 1;
  job.name = "near";
  job.state = "running";
  job.step = step;
  here.status.jobs = {job};
  TopDaemon elsewhere;
  elsewhere.endpoint = "unix:/elsewhere.sock";
  elsewhere.reached = absl::UnavailableError("no such file");
  sample.daemons = {here, elsewhere};
  return sample;
}

TEST(TopTest, StepsASecondComeFromTheSampleBefore) {
  const absl::Time start = absl::FromUnixSeconds(1'800'000'000);
  const TopSample before = Sample(start, 100), now = Sample(start + absl::Seconds(4), 150);
  EXPECT_THAT(TopText(now, &before), ContainsRegex("near .*running .*150 .*12\\.5"));
  EXPECT_THAT(TopText(now, nullptr), Not(HasSubstr("12.5")));
  // A job that began again has no rate.
  EXPECT_THAT(TopText(before, &now), Not(HasSubstr("12.5")));
}

TEST(TopTest, WhoLeadsEveryDaemonAndEveryJobAreShown) {
  const std::string text = TopText(Sample(absl::UnixEpoch(), 3), nullptr);
  EXPECT_THAT(text, HasSubstr("leads: c1:7070"));
  EXPECT_THAT(text, HasSubstr("1.250"));
  EXPECT_THAT(text, HasSubstr("50 %"));
  EXPECT_THAT(text, ContainsRegex("far .*fedcba98 .*orphaned"));
  EXPECT_THAT(text, HasSubstr("unix:/elsewhere.sock is not reached from here"));
}

TEST(TopTest, NobodyAnsweringIsSaid) {
  TopSample nobody;
  nobody.asked = absl::UnavailableError("the coordinator at c1:7070 cannot be reached");
  EXPECT_THAT(TopText(nobody, nullptr), HasSubstr("c1:7070 cannot be reached"));
}

}  // namespace
}  // namespace muond
