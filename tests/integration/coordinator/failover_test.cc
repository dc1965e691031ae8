// Coordinators that stand by for one another around a real etcd; a daemon and a job whose steps go on while leaders are killed,
// stopped and sent away.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "proto/stubs/coordinator_stub.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/etcd_under_test.h"
#include "tests/support/real_job.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

using ::muond::testing::RealJob;
using ::testing::HasSubstr;

class CoordinatorsUnderTest {
 public:
  explicit CoordinatorsUnderTest(const std::string& etcd, int count) : etcd_(etcd) {
    for (int i = 0; i < count; ++i) processes_.push_back(nullptr);
    for (int i = 0; i < count; ++i) Start(i);
  }
  void Start(int i) {
    processes_[i] = std::make_unique<ChildProcess>(
        std::vector<std::string>{MUOND_COORDINATOR, "--listen=" + endpoint(i), "--etcd=" + etcd_},
        scratch_ / ("log" + std::to_string(i)));
  }
  ChildProcess& process(int i) { return *processes_[i]; }
  std::string endpoint(int i) const { return "unix:" + (scratch_ / ("c" + std::to_string(i))); }
  std::string log(int i) const { return ReadWhole(scratch_ / ("log" + std::to_string(i))); }
  std::string list() const {
    std::string all;
    for (size_t i = 0; i < processes_.size(); ++i) all += (i > 0 ? "," : "") + endpoint(i);
    return all;
  }
  // What coordinator i itself answers.
  absl::StatusOr<ClusterStatus> Ask(int i) const {
    StubOptions options;
    options.timeout = absl::Seconds(5);
    return (*CoordinatorStub::Create(endpoint(i), options))->GetCluster();
  }
  // The one that leads, as soon as one does; not `but`.
  int Leader(int but = -1) const {
    int leader = -1;
    EXPECT_TRUE(Eventually([&] {
      for (int i = 0; i < static_cast<int>(processes_.size()); ++i) {
        if (i == but || processes_[i]->Ended() || !Ask(i).ok()) continue;
        leader = i;
        return true;
      }
      return false;
    })) << log(0);
    return leader;
  }

 private:
  const std::string etcd_;
  ScratchDirectory scratch_;
  std::vector<std::unique_ptr<ChildProcess>> processes_;
};

// All threads of it: a signal reaches them one after the other.
bool Stopped(pid_t pid) {
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
    const std::string stat = ReadWhole(task.path() / "stat");
    if (stat.substr(stat.rfind(')') + 2, 1) != "T") return false;
  }
  return true;
}

class FailoverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdUnderTest::Installed()) GTEST_SKIP() << "no etcd: " << EtcdUnderTest::kProgram;
    etcd_ = std::make_unique<EtcdUnderTest>();
    coordinators_ = std::make_unique<CoordinatorsUnderTest>(etcd_->endpoint(), 3);
    leader_ = coordinators_->Leader();
    daemon_ = std::make_unique<DaemonUnderTest>(
        MUOND_BINARY, std::vector<std::string>{"--coordinator=" + coordinators_->list()});
    ASSERT_TRUE(daemon_->Serves()) << daemon_->log();
    auto job = RealJob::Attach(daemon_->endpoint(), "job");
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    stepping_ = std::thread([this] {
      while (!stop_) {
        if (absl::Status status = job_->Steps(1); !status.ok()) {
          ADD_FAILURE() << status;
          return;
        }
        ++steps_;
      }
    });
  }
  void TearDown() override {
    stop_ = true;
    if (stepping_.joinable()) stepping_.join();
  }
  // The job has stepped on `count` times since now.
  bool StepsOn(int count = 20) {
    const int64_t from = steps_;
    return Eventually([&] { return steps_ >= from + count; });
  }
  // Cluster as muonctl sees it through the whole list.
  std::string Cluster() {
    const Ran ran = RunProgram({MUONCTL, "cluster", "--endpoint", coordinators_->list()});
    return ran.code == 0 ? ran.out : ran.err;
  }
  // The cluster knows the daemon and the job, and takes a second job: decisions are made again.
  void DecidesAgain(const std::string& name) {
    EXPECT_TRUE(
        Eventually([&] { return Cluster().find(daemon_->endpoint()) != std::string::npos; }));
    EXPECT_THAT(Cluster(), HasSubstr("job "));
    auto second = RealJob::Attach(daemon_->endpoint(), name);
    EXPECT_TRUE(second.ok()) << second.status();
    if (second.ok()) {
      EXPECT_TRUE((*second)->Leave().ok());
    }
  }

  std::unique_ptr<EtcdUnderTest> etcd_;
  std::unique_ptr<CoordinatorsUnderTest> coordinators_;
  std::unique_ptr<DaemonUnderTest> daemon_;
  std::unique_ptr<RealJob> job_;
  int leader_ = -1;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> steps_{0};
  std::thread stepping_;
};

TEST_F(FailoverTest, AKilledLeaderIsReplacedWhileStepsGoOn) {
  ASSERT_TRUE(StepsOn());
  const auto before = coordinators_->Ask(leader_);
  ASSERT_TRUE(before.ok()) << before.status();
  const auto killed = std::chrono::steady_clock::now();
  coordinators_->process(leader_).Signal(SIGKILL);
  coordinators_->process(leader_).Wait();
  const int next = coordinators_->Leader();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - killed;
  RecordProperty("failover_seconds", std::to_string(took.count()));
  std::printf("fail-over after kill -9: %.2f s\n", took.count());
  std::fflush(stdout);
  EXPECT_NE(next, leader_);
  const auto after = coordinators_->Ask(next);
  ASSERT_TRUE(after.ok()) << after.status();
  ASSERT_EQ(after->jobs.size(), 1u);
  EXPECT_EQ(after->jobs[0].job, before->jobs[0].job);
  EXPECT_EQ(after->jobs[0].epoch, before->jobs[0].epoch);
  EXPECT_EQ(after->coordinator, coordinators_->endpoint(next));
  EXPECT_TRUE(StepsOn());
  DecidesAgain("second");
  // The killed one comes back and stands by, saying who leads.
  coordinators_->Start(leader_);
  EXPECT_TRUE(Eventually([&] {
    return std::string(coordinators_->Ask(leader_).status().message())
               .find("the one at " + coordinators_->endpoint(next) + " leads") != std::string::npos;
  })) << coordinators_->log(leader_);
}

TEST_F(FailoverTest, AStoppedLeaderThatGoesOnAnswersAndWritesNothing) {
  ASSERT_TRUE(StepsOn());
  const uint64_t job = coordinators_->Ask(leader_)->jobs.at(0).job;
  const auto stub = *CoordinatorStub::Create(coordinators_->endpoint(leader_));
  ASSERT_TRUE(stub->GetCluster().ok());
  coordinators_->process(leader_).Signal(SIGSTOP);
  ASSERT_TRUE(Eventually([&] { return Stopped(coordinators_->process(leader_).pid()); }));
  // Calls that reach it while it is stopped, and wait in its socket.
  absl::Status ended, asked;
  std::thread ending(
      [&] { ended = stub->EndJob(job, "by one that leads no more", absl::Seconds(60)); });
  std::thread asking([&] { asked = stub->GetCluster(absl::Seconds(60)).status(); });
  const int next = coordinators_->Leader(leader_);
  EXPECT_TRUE(StepsOn());
  coordinators_->process(leader_).Signal(SIGCONT);
  ending.join();
  asking.join();
  EXPECT_EQ(ended.code(), absl::StatusCode::kUnavailable) << ended;
  EXPECT_EQ(asked.code(), absl::StatusCode::kUnavailable) << asked;
  EXPECT_FALSE(coordinators_->Ask(leader_).ok());
  const auto cluster = coordinators_->Ask(next);
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  ASSERT_EQ(cluster->jobs.size(), 1u);
  EXPECT_EQ(cluster->jobs[0].job, job);
  DecidesAgain("second");
  EXPECT_TRUE(StepsOn());
}

TEST_F(FailoverTest, ALeaderThatEndsInOrderHandsOver) {
  coordinators_->process(leader_).Signal(SIGTERM);
  EXPECT_EQ(coordinators_->process(leader_).Wait(), 0) << coordinators_->log(leader_);
  EXPECT_THAT(coordinators_->log(leader_), HasSubstr("coordinator.leads_no_more"));
  EXPECT_NE(coordinators_->Leader(), leader_);
  EXPECT_TRUE(StepsOn());
  DecidesAgain("second");
}

TEST_F(FailoverTest, WithoutItsStoreNobodyLeadsAndStepsGoOnUntilItIsBack) {
  etcd_->Kill();
  EXPECT_TRUE(Eventually([&] { return !coordinators_->Ask(leader_).ok(); }));
  EXPECT_TRUE(StepsOn());
  etcd_->Start();
  const int next = coordinators_->Leader();
  EXPECT_EQ(coordinators_->Ask(next)->jobs.size(), 1u);
  DecidesAgain("second");
  EXPECT_TRUE(StepsOn());
}

TEST_F(FailoverTest, AllOfThemGoneAndBackKnowWhatTheyKnew) {
  const uint64_t job = coordinators_->Ask(leader_)->jobs.at(0).job;
  for (int i = 0; i < 3; ++i) coordinators_->process(i).Signal(SIGKILL);
  for (int i = 0; i < 3; ++i) coordinators_->process(i).Wait();
  EXPECT_TRUE(StepsOn());
  for (int i = 0; i < 3; ++i) coordinators_->Start(i);
  const auto cluster = coordinators_->Ask(coordinators_->Leader());
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  ASSERT_EQ(cluster->jobs.size(), 1u);
  EXPECT_EQ(cluster->jobs[0].job, job);
  EXPECT_FALSE(cluster->jobs[0].orphaned);
  DecidesAgain("second");
}

}  // namespace
}  // namespace muond
