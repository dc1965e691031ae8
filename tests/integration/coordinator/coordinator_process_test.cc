// The real muond-coordinator over real gRPC: registered, asked, killed, restarted.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/stubs/coordinator_stub.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::Tensor;
using ::testing::HasSubstr;

class CoordinatorProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("muond-coordinator-test-" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    endpoint_ = "unix:" + (folder_ / "c.sock").string();
  }
  void TearDown() override {
    if (child_ > 0) Stop(SIGKILL);
    std::filesystem::remove_all(folder_);
  }

  pid_t Spawn(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), MUOND_COORDINATOR);
    const std::string log = folder_ / "log";
    const pid_t child = fork();
    if (child != 0) return child;
    const int descriptor = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dup2(descriptor, 1);
    dup2(descriptor, 2);
    std::vector<char*> words;
    for (std::string& argument : arguments) words.push_back(argument.data());
    words.push_back(nullptr);
    execv(words[0], words.data());
    _exit(127);
  }
  static int Wait(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  void Start() { child_ = Spawn({"--listen", endpoint_, "--store", folder_ / "store.db"}); }
  int Stop(int signal) {
    kill(child_, signal);
    const int code = Wait(child_);
    child_ = -1;
    return code;
  }
  std::unique_ptr<CoordinatorStub> Stub() {
    StubOptions options;
    options.wait_for_ready = true;  // the process is starting
    options.timeout = absl::Minutes(1);
    return *CoordinatorStub::Create(endpoint_, options);
  }
  std::string Log() {
    std::ifstream file(folder_ / "log");
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

  static RegisterCall Daemon() {
    RegisterCall call;
    call.endpoint = "unix:/daemon.sock";
    call.devices.resize(2);
    for (int d = 0; d < 2; ++d) {
      call.devices[static_cast<size_t>(d)].ordinal = d;
      call.devices[static_cast<size_t>(d)].architecture = "cpu-avx2";
    }
    return call;
  }
  static CreateJobCall Job(const std::string& daemon) {
    CreateJobCall call;
    call.daemon = daemon;
    call.manifest = EmptyManifest(2, "training");
    for (int i = 0; i < 9; ++i)
      call.manifest.tensors.push_back(Tensor("w" + std::to_string(i), {48, 32}));
    call.manifest.tensors.push_back(Tensor("norm", {48}, Rule::kAdamW));
    call.ranks = Replicated(call.manifest);
    return call;
  }

  std::filesystem::path folder_;
  std::string endpoint_;
  pid_t child_ = -1;
};

TEST_F(CoordinatorProcessTest, AKilledCoordinatorComesBackWithEverythingItGranted) {
  Start();
  const RegisterReply registered = *Stub()->Register(Daemon());
  ASSERT_TRUE(Stub()->Heartbeat({registered.daemon, {}, false}).ok());
  const absl::StatusOr<CreateJobReply> job = Stub()->CreateJob(Job(registered.daemon));
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_EQ(Stop(SIGKILL), 128 + SIGKILL);

  Start();  // over the dead one's socket file
  EXPECT_TRUE(Stub()->Heartbeat({registered.daemon, {}, false}).ok());
  const absl::StatusOr<Plan> plan = Stub()->GetPlan(job->job, 0);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->epoch, job->plan.epoch);
  ASSERT_EQ(plan->items.size(), job->plan.items.size());
  for (size_t i = 0; i < plan->items.size(); ++i)
    EXPECT_EQ(plan->items[i].owner, job->plan.items[i].owner);
  const absl::Status again = Stub()->CreateJob(Job(registered.daemon)).status();
  EXPECT_EQ(again.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(again.message()), HasSubstr("a job named 'training' runs"));
  const ClusterStatus cluster = *Stub()->GetCluster();
  ASSERT_EQ(cluster.jobs.size(), 1u);
  EXPECT_EQ(cluster.jobs[0].name, "training");
  ASSERT_EQ(cluster.daemons.size(), 1u);
  EXPECT_TRUE(Stub()->EndJob(job->job, "test").ok());
  EXPECT_EQ(Stop(SIGTERM), 0);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "c.sock"));
  EXPECT_THAT(Log(), HasSubstr("coordinator.job_created job=training"));
  EXPECT_THAT(Log(), HasSubstr("coordinator.restored"));
}

TEST_F(CoordinatorProcessTest, KilledAtRandomInstantsItNeverForgetsAGrant) {
  Start();
  const std::string daemon = Stub()->Register(Daemon())->daemon;
  std::vector<uint64_t> granted;
  for (int round = 0; round < 6; ++round) {
    CreateJobCall first =
        Job(daemon);  // served before the clock starts: starting takes longer than the delays below
    first.manifest.job = "first-" + std::to_string(round);
    const absl::StatusOr<CreateJobReply> served = Stub()->CreateJob(first);
    ASSERT_TRUE(served.ok()) << served.status();
    granted.push_back(served->job);
    const pid_t killer = fork();
    if (killer == 0) {
      usleep(static_cast<useconds_t>(5000 + 17'000 * round));
      kill(child_, SIGKILL);
      _exit(0);
    }
    StubOptions options;
    options.timeout = absl::Seconds(5);
    const auto stub = *CoordinatorStub::Create(endpoint_, options);
    for (int i = 0; i < 1000; ++i) {
      CreateJobCall call = Job(daemon);
      call.manifest.job = "job-" + std::to_string(round) + "-" + std::to_string(i);
      const absl::StatusOr<CreateJobReply> reply = stub->CreateJob(call);
      if (!reply.ok()) break;
      granted.push_back(reply->job);
    }
    Wait(killer);
    Wait(child_);
    Start();
    const auto restarted = Stub();
    for (uint64_t job : granted) ASSERT_TRUE(restarted->GetPlan(job, 0).ok()) << "round " << round;
  }
  EXPECT_GT(granted.size(), 6u)
      << "nothing but the first of each round: the kills came too early to prove anything";
}

TEST_F(CoordinatorProcessTest, AServedSocketAndAFileThatIsNoneAreLeftAlone) {
  Start();
  ASSERT_TRUE(Stub()->GetCluster().ok());
  EXPECT_EQ(Wait(Spawn({"--listen", endpoint_})), 1);
  EXPECT_THAT(Log(), HasSubstr("is served by another process"));
  EXPECT_EQ(Wait(Spawn({"--listen", "unix:" + (folder_ / "d.sock").string(), "--store",
                        folder_ / "store.db"})),
            1);
  EXPECT_THAT(Log(), HasSubstr("another coordinator has it open"));
  std::ofstream(folder_ / "file") << "mine";
  EXPECT_EQ(Wait(Spawn({"--listen", "unix:" + (folder_ / "file").string()})), 1);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "file"));
  EXPECT_TRUE(Stub()->GetCluster().ok());
}

TEST_F(CoordinatorProcessTest, WrongOptionsAreExitStatusTwoWithTheReason) {
  EXPECT_EQ(Wait(Spawn({"--frob"})), 2);
  EXPECT_EQ(Wait(Spawn({"--lease-ms", "5"})), 2);
  EXPECT_THAT(Log(), HasSubstr("a whole number from 100 to 3600000"));
  EXPECT_EQ(Wait(Spawn({"--listen", "0.0.0.0:7000"})), 2);
  EXPECT_THAT(Log(), HasSubstr("0.0.0.0:7000 is beyond this machine"));
  EXPECT_EQ(Wait(Spawn({"--listen", "unix:/" + std::string(200, 'x')})), 2);
  EXPECT_EQ(Wait(Spawn({"--check-config", "--listen", endpoint_})), 0);
  EXPECT_EQ(Wait(Spawn({"--help"})), 0);
}

TEST_F(CoordinatorProcessTest, MuonctlShowsTheCluster) {
  Start();
  const std::string daemon = Stub()->Register(Daemon())->daemon;
  ASSERT_TRUE(Stub()->CreateJob(Job(daemon)).ok());
  FILE* const pipe =
      popen((std::string(MUONCTL) + " cluster -o json --endpoint " + endpoint_).c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string text;
  char piece[4096];
  while (const size_t size = fread(piece, 1, sizeof(piece), pipe)) text.append(piece, size);
  EXPECT_EQ(pclose(pipe), 0);
  EXPECT_THAT(text, HasSubstr("\"name\": \"training\""));
  EXPECT_THAT(text, HasSubstr(daemon));
}

}  // namespace
}  // namespace muond
