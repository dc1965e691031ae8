// Daemons and the coordinator that they share, all of them real processes; jobs through the real client.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "muond/v1/coordinator.grpc.pb.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/types/convert.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/real_job.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

using ::muond::testing::RealJob;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr const char* kLease = "--lease-ms=900";

class CoordinatorUnderTest {
 public:
  CoordinatorUnderTest() { Start(); }
  void Start() {
    process_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{MUOND_COORDINATOR, "--listen=" + endpoint(),
                                 "--store=" + (scratch_ / "c.db"), kLease},
        scratch_ / "log");
    ++starts_;
    EXPECT_TRUE(Eventually([&] { return CountOf(log(), "coordinator.serving") == starts_; }))
        << log();
  }
  void Kill() {
    process_->Signal(SIGKILL);
    process_->Wait();
  }
  std::string endpoint() const { return "unix:" + (scratch_ / "c.sock"); }
  std::string log() const { return ReadWhole(scratch_ / "log"); }
  Json Cluster() const { return ClusterAt(endpoint()); }
  static Json ClusterAt(const std::string& endpoint) {
    const Ran ran = RunProgram({MUONCTL, "cluster", "-o", "json", "--endpoint", endpoint});
    EXPECT_EQ(ran.code, 0) << ran.err;
    return Json::parse(ran.out);
  }
  std::string flag() const { return "--coordinator=" + endpoint(); }

 private:
  ScratchDirectory scratch_;
  std::unique_ptr<ChildProcess> process_;
  int starts_ = 0;
};

std::vector<std::vector<float>> Undisturbed(int steps) {
  DaemonUnderTest daemon(MUOND_BINARY);
  EXPECT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  EXPECT_TRUE(job.ok()) << job.status();
  EXPECT_TRUE((*job)->Steps(steps).ok());
  return (*job)->Parameters();
}

Json StatusOf(const DaemonUnderTest& daemon) {
  const Ran ran = RunProgram({MUONCTL, "status", "-o", "json", "--endpoint", daemon.endpoint()});
  EXPECT_EQ(ran.code, 0) << ran.err;
  return Json::parse(ran.out);
}

TEST(ClusterTest, TwoDaemonsShareTheNamesOfJobsAndTheEpochs) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest one(MUOND_BINARY, {coordinator.flag(), "--cpu-devices=2"});
  DaemonUnderTest two(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(one.Serves()) << one.log();
  ASSERT_TRUE(two.Serves()) << two.log();
  auto job = RealJob::Attach(one.endpoint(), "job", 2);
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE((*job)->Steps(3).ok());

  const absl::Status second = RealJob::Attach(two.endpoint(), "job").status();
  EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists) << second;
  EXPECT_THAT(std::string(second.message()), AllOf(HasSubstr("'job'"), HasSubstr(one.endpoint())));
  auto other = RealJob::Attach(two.endpoint(), "other");
  ASSERT_TRUE(other.ok()) << other.status();

  const Json cluster = coordinator.Cluster();
  ASSERT_EQ(cluster["daemons"].size(), 2u);
  ASSERT_EQ(cluster["jobs"].size(), 2u);
  for (const Json& entry : cluster["jobs"]) {
    const DaemonUnderTest& owner = entry["name"] == "job" ? one : two;
    const Json status = StatusOf(owner);
    EXPECT_EQ(entry["daemon"], status["daemon"]);
    EXPECT_EQ(entry["job_id"], status["jobs"][0]["job_id"]);
    EXPECT_EQ(entry["epoch"], status["jobs"][0]["epoch"]);
    EXPECT_EQ(entry["orphaned"], false);
  }
  EXPECT_NE(cluster["jobs"][0]["epoch"], cluster["jobs"][1]["epoch"]);
  // The plan of the epoch is the same, whoever is asked.
  const ClientInfo& info = (*job)->rank(0).info();
  const auto theirs =
      (*CoordinatorStub::Create(coordinator.endpoint()))->GetPlan(info.job, info.epoch);
  const auto ours = (*DaemonStub::Create(one.endpoint()))->GetPlan(info.job, info.epoch);
  ASSERT_TRUE(theirs.ok() && ours.ok()) << theirs.status() << ours.status();
  ASSERT_EQ(theirs->items.size(), 3u);
  ASSERT_EQ(ours->items.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(theirs->items[i].owner, ours->items[i].owner);
  EXPECT_EQ((*CoordinatorStub::Create(coordinator.endpoint()))
                ->GetPlan(info.job, info.epoch + 100)
                .status()
                .code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE((*job)->Leave().ok());
  EXPECT_TRUE(Eventually([&] { return coordinator.Cluster()["jobs"].size() == 1; }));
  EXPECT_TRUE(RealJob::Attach(two.endpoint(), "job").ok()) << "the name is free again";
}

TEST(ClusterTest, StepsGoOnWhileTheCoordinatorIsKilledAndComesBack) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest daemon(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  ASSERT_TRUE((*job)->Steps(5).ok());
  const uint64_t epoch = (*job)->rank(0).info().epoch;

  coordinator.Kill();
  ASSERT_TRUE((*job)->Steps(10).ok());
  const absl::Status refused = RealJob::Attach(daemon.endpoint(), "new").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr(coordinator.endpoint()));
  EXPECT_TRUE(Eventually([&] { return StatusOf(daemon)["coordinator_silence_seconds"] > 1.0; }));
  ASSERT_TRUE((*job)->Steps(10).ok());

  // Also a stepper that dies meanwhile needs no coordinator.
  ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
  ASSERT_TRUE((*job)->Steps(5).ok());
  EXPECT_THAT(daemon.log(), HasSubstr("coordinator.away"));

  coordinator.Start();
  EXPECT_TRUE(daemon.Logged("coordinator.back")) << daemon.log();
  ASSERT_TRUE((*job)->Steps(10).ok());
  const Json cluster = coordinator.Cluster();
  ASSERT_EQ(cluster["jobs"].size(), 1u);
  EXPECT_EQ(cluster["jobs"][0]["epoch"], epoch);
  EXPECT_EQ(cluster["jobs"][0]["orphaned"], false);
  auto next = RealJob::Attach(daemon.endpoint(), "new");
  ASSERT_TRUE(next.ok()) << next.status();
  EXPECT_GT((*next)->rank(0).info().epoch, epoch);
  EXPECT_EQ((*job)->Parameters(), Undisturbed(40));
}

TEST(ClusterTest, ADaemonThatIsSilentLosesItsLeaseAndComesBackUnderItsId) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest daemon(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  auto job = RealJob::Attach(daemon.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  const std::string id = coordinator.Cluster()["daemons"][0]["daemon"];

  ASSERT_EQ(::kill(daemon.stepper(), SIGSTOP), 0);
  EXPECT_TRUE(Eventually([&] { return coordinator.Cluster()["daemons"].empty(); }));
  const Ran people = RunProgram({MUONCTL, "cluster", "--endpoint", coordinator.endpoint()});
  EXPECT_THAT(people.out, AllOf(HasSubstr("no daemons"), HasSubstr("orphaned")));
  ASSERT_EQ(::kill(daemon.stepper(), SIGCONT), 0);
  EXPECT_TRUE(Eventually([&] { return !coordinator.Cluster()["daemons"].empty(); }));
  const Json back = coordinator.Cluster();
  EXPECT_EQ(back["daemons"][0]["daemon"], id);
  ASSERT_EQ(back["jobs"].size(), 1u);
  EXPECT_EQ(back["jobs"][0]["orphaned"], false);
  EXPECT_TRUE((*job)->Steps(2).ok());
}

TEST(ClusterTest, TheNameOfAJobIsFreeWhenItsDaemonHasDied) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest one(MUOND_BINARY, {coordinator.flag()});
  DaemonUnderTest two(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(one.Serves() && two.Serves()) << one.log() << two.log();
  auto job = RealJob::Attach(one.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  one.process().Signal(SIGKILL);
  EXPECT_TRUE(Eventually([&] { return RealJob::Attach(two.endpoint(), "job").ok(); }));
}

TEST(ClusterTest, AJobThatEndsWhileTheCoordinatorIsAwayIsToldLater) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest daemon(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  for (const bool stepper_dies : {false, true}) {
    auto job = RealJob::Attach(daemon.endpoint(), "job");
    ASSERT_TRUE(job.ok()) << job.status();
    ASSERT_EQ(coordinator.Cluster()["jobs"].size(), 1u);
    coordinator.Kill();
    ASSERT_TRUE((*job)->Leave().ok());
    if (stepper_dies) {
      ASSERT_TRUE(Eventually([&] { return CountOf(daemon.log(), "job.ended") == 2; }));
      ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
      ASSERT_TRUE(daemon.Serves(2)) << daemon.log();
    }
    coordinator.Start();
    EXPECT_TRUE(Eventually([&] { return coordinator.Cluster()["jobs"].empty(); })) << daemon.log();
  }
}

TEST(ClusterTest, AnAdoptedJobIsTheNextIncarnationEverywhere) {
  CoordinatorUnderTest coordinator;
  DaemonUnderTest daemon(MUOND_BINARY, {coordinator.flag()});
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  for (uint32_t incarnation = 1; incarnation <= 3; ++incarnation) {
    auto job = RealJob::Attach(daemon.endpoint(), "job", 1, /*adopt=*/incarnation > 1);
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ((*job)->rank(0).info().incarnation, incarnation);
    EXPECT_EQ(coordinator.Cluster()["jobs"][0]["incarnation"], incarnation);
    ASSERT_TRUE((*job)->Steps(2).ok());
    (*job)->Die();
    ASSERT_TRUE(Eventually([&] { return StatusOf(daemon)["jobs"][0]["state"] == "orphaned"; }));
    // The stepper in between forgets nothing either.
    ASSERT_EQ(::kill(daemon.stepper(), SIGKILL), 0);
    ASSERT_TRUE(daemon.Serves(static_cast<int>(incarnation) + 1)) << daemon.log();
  }
}

TEST(ClusterTest, ASecondDaemonUsesTheCoordinatorOfALoneOne) {
  DaemonUnderTest lone(MUOND_BINARY);
  ASSERT_TRUE(lone.Serves()) << lone.log();
  DaemonUnderTest guest(MUOND_BINARY, {"--coordinator=" + lone.endpoint()});
  ASSERT_TRUE(guest.Serves()) << guest.log();
  auto job = RealJob::Attach(guest.endpoint(), "job");
  ASSERT_TRUE(job.ok()) << job.status();
  const Json cluster = CoordinatorUnderTest::ClusterAt(lone.endpoint());
  EXPECT_EQ(cluster["daemons"].size(), 2u);
  EXPECT_EQ(RealJob::Attach(lone.endpoint(), "job").status().code(),
            absl::StatusCode::kAlreadyExists);
  // The host's stepper is another process now, its catalogue is the same.
  ASSERT_EQ(::kill(lone.stepper(), SIGKILL), 0);
  ASSERT_TRUE(lone.Serves(2)) << lone.log();
  EXPECT_TRUE((*job)->Steps(3).ok());
  EXPECT_TRUE(Eventually([&] {
    const Ran ran = RunProgram({MUONCTL, "cluster", "-o", "json", "--endpoint", lone.endpoint()});
    return ran.code == 0 && Json::parse(ran.out)["jobs"].size() == 1;
  }));
}

TEST(ClusterTest, ACoordinatorThatIsNotThereIsAStartErrorWithItsAddress) {
  ScratchDirectory scratch;
  const Ran ran =
      RunProgram({MUOND_BINARY, "--backend=cpu", "--metrics-listen=off",
                  "--socket-dir=" + (scratch / "run"), "--coordinator=unix:" + (scratch / "none")});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, HasSubstr("the coordinator at unix:" + (scratch / "none")));
}

// Of the next protocol.
class NewCoordinator final : public v1::Coordinator::Service {
 public:
  grpc::Status RegisterDaemon(grpc::ServerContext*, const v1::RegisterDaemonRequest*,
                              v1::RegisterDaemonResponse* response) override {
    ProtocolVersion version;
    version.major_number = kProtocolMajor + 1;
    ToProto(version, response->mutable_version());
    response->set_daemon(std::string(32, 'a'));
    return grpc::Status::OK;
  }
};

TEST(ClusterTest, ACoordinatorOfAnotherProtocolIsAStartErrorNamingBothVersions) {
  ScratchDirectory scratch;
  NewCoordinator service;
  const std::string endpoint = "unix:" + (scratch / "c.sock");
  grpc::ServerBuilder builder;
  builder.AddListeningPort(endpoint, grpc::InsecureServerCredentials());
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const Ran ran = RunProgram({MUOND_BINARY, "--backend=cpu", "--metrics-listen=off",
                              "--socket-dir=" + (scratch / "run"), "--coordinator=" + endpoint});
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.err, AllOf(HasSubstr(endpoint), HasSubstr("protocol 2.0"), HasSubstr("1.0")));
  EXPECT_EQ(CountOf(ran.err, "stepper.started"), 1) << "it is not tried again";
}

TEST(ClusterTest, ADaemonOfAnotherProtocolIsRefusedNamingBothVersions) {
  CoordinatorUnderTest coordinator;
  StubOptions options;
  options.version.major_number = kProtocolMajor + 1;
  RegisterCall call;
  call.endpoint = "unix:/d.sock";
  call.devices.resize(1);
  const absl::Status status =
      (*CoordinatorStub::Create(coordinator.endpoint(), options))->Register(call).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("1.0"), HasSubstr("2.0")));
  EXPECT_TRUE(coordinator.Cluster()["daemons"].empty());
}

}  // namespace
}  // namespace muond
