// muonctl against a real daemon with a real job: tables for people, JSON for programs, exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/daemon_under_test.h"
#include "tests/support/real_job.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

using ::muond::testing::RealJob;
using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class CtlProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(daemon_.Serves()) << daemon_.log();
    auto job = RealJob::Attach(daemon_.endpoint(), "job", 2);
    ASSERT_TRUE(job.ok()) << job.status();
    job_ = *std::move(job);
    ASSERT_TRUE(job_->Steps(3).ok());
  }
  Ran Ctl(std::vector<std::string> words) const {
    words.insert(words.begin(), MUONCTL);
    words.insert(words.end(), {"--endpoint", daemon_.endpoint()});
    return RunProgram(words);
  }
  Json CtlJson(std::vector<std::string> words, int code = 0) const {
    words.insert(words.end(), {"-o", "json"});
    const Ran ran = Ctl(std::move(words));
    EXPECT_EQ(ran.code, code) << ran.err;
    const Json json = Json::parse(ran.out, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(json.is_discarded()) << ran.out;
    return json;
  }

  DaemonUnderTest daemon_{MUOND_BINARY, {"--cpu-devices=2"}};
  std::unique_ptr<RealJob> job_;
};

TEST_F(CtlProcessTest, TopLooksAgainAndAgain) {
  const Ran ran = Ctl({"top", "--count=2", "--interval=0.05"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(CountOf(ran.out, "muonctl top"), 2) << ran.out;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("job "), HasSubstr("running"), HasSubstr("0.0")));
  EXPECT_EQ(RunProgram({MUONCTL, "top", "--count=1", "--endpoint=unix:/nowhere.sock"}).code, 3);
}

TEST_F(CtlProcessTest, StatusTellsProgramsEverything) {
  const Json status = CtlJson({"status"});
  EXPECT_EQ(status["keeper_pid"], daemon_.process().pid());
  EXPECT_EQ(status["stepper_pid"], daemon_.stepper());
  EXPECT_EQ(status["endpoint"], daemon_.endpoint());
  EXPECT_EQ(status["metrics_endpoint"], daemon_.metrics());
  EXPECT_EQ(status["coordinator"], "embedded");
  EXPECT_EQ(status["daemon"].get<std::string>().size(), 32u);
  EXPECT_EQ(status["devices"].size(), 2u);
  ASSERT_EQ(status["jobs"].size(), 1u);
  const Json& job = status["jobs"][0];
  EXPECT_EQ(job["name"], "job");
  EXPECT_EQ(job["state"], "running");
  EXPECT_EQ(job["step"], 3);
  EXPECT_EQ(job["matrices"], 2);
  EXPECT_EQ(job["parameters"], 24 * 16 + 12 * 40 + 24);
  ASSERT_EQ(job["ranks"].size(), 2u);
  EXPECT_EQ(job["ranks"][1]["state"], "attached");
  EXPECT_EQ(job["ranks"][1]["pid"], ::getpid());
  EXPECT_EQ(job["void_step"], 0);
}

TEST_F(CtlProcessTest, StatusTellsPeopleWhereTheMetricsAre) {
  const Ran ran = Ctl({"status"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("metrics " + daemon_.metrics()), HasSubstr("job"),
                             HasSubstr("2/2"), HasSubstr("coordinator embedded")));
}

TEST_F(CtlProcessTest, ARefusedStepIsShownWithItsReason) {
  const auto refused = job_->Step([](int32_t, int32_t tensor, std::vector<float>* gradient) {
    if (tensor == 1) (*gradient)[7] = std::nanf("");
  });
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_FALSE(refused->applied);
  const std::string why = "step 4: tensor 'down' has 1 NaN or Inf gradients (of 480";
  EXPECT_THAT(refused->text, HasSubstr(why)) << "the rank is told the daemon's own words";
  const Json job = CtlJson({"status"})["jobs"][0];
  EXPECT_EQ(job["void_step"], 4);
  EXPECT_THAT(job["void_text"].get<std::string>(), HasSubstr(why));
  EXPECT_THAT(Ctl({"status"}).out, HasSubstr("job, last refused: " + why));
  EXPECT_THAT(Ctl({"jobs"}).out, HasSubstr(why));

  job_->ScaleRates({1.0, 2.0});
  const auto differs = job_->Step();
  ASSERT_TRUE(differs.ok()) << differs.status();
  EXPECT_THAT(differs->text, HasSubstr("ranks 0 and 1 disagree on group 0 lr: "));
  EXPECT_THAT(CtlJson({"jobs"})["jobs"][0]["void_text"].get<std::string>(),
              AllOf(HasSubstr("0.02"), HasSubstr("0.04")));
  job_->ScaleRates({1.0, 1.0});
  EXPECT_TRUE(job_->Steps(1).ok());
}

TEST_F(CtlProcessTest, ARefusedStepIsRememberedByASuccessor) {
  const auto refused = job_->Step([](int32_t, int32_t tensor, std::vector<float>* gradient) {
    if (tensor == 0) (*gradient)[0] = INFINITY;
  });
  ASSERT_TRUE(refused.ok() && !refused->applied);
  ASSERT_EQ(::kill(daemon_.stepper(), SIGKILL), 0);
  ASSERT_TRUE(daemon_.Serves(2)) << daemon_.log();
  const Json job = CtlJson({"status", "--timeout", "20"})["jobs"][0];
  EXPECT_EQ(job["void_step"], 4);
  EXPECT_THAT(job["void_text"].get<std::string>(),
              AllOf(HasSubstr("step 4: NaN or Inf"), HasSubstr("'up'")));
}

TEST_F(CtlProcessTest, PlanTellsTheOwnersAndWhy) {
  const Json plans = CtlJson({"plan", "job"})["plans"];
  ASSERT_EQ(plans.size(), 1u);
  EXPECT_EQ(plans[0]["items"].size(), 3u);
  EXPECT_EQ(plans[0]["devices"].size(), 2u);
  EXPECT_FALSE(plans[0]["reason"].get<std::string>().empty());
  EXPECT_THAT(Ctl({"plan"}).out, AllOf(HasSubstr("job, epoch"), HasSubstr("imbalance")));
  const Ran unknown = Ctl({"plan", "jbo"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("no job 'jbo'"), HasSubstr("it has 1 jobs")));
}

TEST_F(CtlProcessTest, SnapshotWritesTheStateOfARunningJob) {
  const std::string folder = daemon_.scratch() / "snapshot";
  std::filesystem::create_directory(folder);
  const Json taken = CtlJson({"snapshot", "job", folder});
  EXPECT_EQ(taken["step"], 3);
  EXPECT_GT(taken["bytes"], 0);
  EXPECT_FALSE(std::filesystem::is_empty(folder));
  const Ran unknown = Ctl({"snapshot", "other", folder});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.err, HasSubstr("'other'"));
  EXPECT_TRUE(job_->Steps(1).ok());
}

TEST_F(CtlProcessTest, DrainWaitsForJobsAndTakesNoNewOnes) {
  const Json left = CtlJson({"drain", "--timeout", "0.3"}, /*code=*/4);
  EXPECT_EQ(left["jobs_left"], 1);
  EXPECT_EQ(CtlJson({"status"})["draining"], true);
  const absl::Status refused = RealJob::Attach(daemon_.endpoint(), "new").status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("drains"));
  EXPECT_TRUE(job_->Steps(2).ok());
  ASSERT_TRUE(job_->Leave().ok());
  const Ran drained = Ctl({"drain", "--timeout", "20"});
  EXPECT_EQ(drained.code, 0) << drained.err;
  EXPECT_THAT(drained.out, HasSubstr("0 are left"));
}

TEST_F(CtlProcessTest, ClusterAsksTheCoordinatorWithinTheDaemon) {
  const Json cluster = CtlJson({"cluster"});
  ASSERT_EQ(cluster["daemons"].size(), 1u);
  EXPECT_EQ(cluster["daemons"][0]["daemon"], CtlJson({"status"})["daemon"]);
  ASSERT_EQ(cluster["jobs"].size(), 1u);
  EXPECT_EQ(cluster["jobs"][0]["name"], "job");
}

TEST_F(CtlProcessTest, DoctorLooksAtTheDaemon) {
  const Ran ran = Ctl({"doctor", "-o", "json"});
  EXPECT_TRUE(ran.code == 0 || ran.code == 4) << ran.code;
  const Json report = Json::parse(ran.out);
  EXPECT_THAT(report.dump(), HasSubstr(daemon_.endpoint()));
  const Ran nobody =
      RunProgram({MUONCTL, "doctor", "--endpoint", "unix:/tmp/nobody/grpc.sock", "--timeout", "1"});
  EXPECT_EQ(nobody.code, 4);
  EXPECT_THAT(nobody.out, HasSubstr("/tmp/nobody/grpc.sock"));
}

TEST(CtlTest, NobodyAnsweringIsExitStatusThreeWithTheAddress) {
  for (const char* command : {"status", "jobs", "plan", "drain", "cluster"}) {
    const Ran ran = RunProgram(
        {MUONCTL, command, "--endpoint", "unix:/tmp/nobody/grpc.sock", "--timeout", "0.5"});
    EXPECT_EQ(ran.code, 3) << command;
    EXPECT_THAT(ran.err, HasSubstr("unix:/tmp/nobody/grpc.sock cannot be reached")) << command;
    EXPECT_EQ(ran.out, "") << command;
  }
}

TEST(CtlTest, AWrongCommandLineIsExitStatusTwoWithWhatIsWrong) {
  const struct {
    std::vector<std::string> words;
    const char* error;
  } kWrong[] = {
      {{"frobnicate"}, "unknown command 'frobnicate'"},
      {{"statsu"}, "unknown command 'statsu'"},
      {{"status", "--frob"}, "unknown option --frob"},
      {{"status", "extra"}, "status with 1 operands"},
      {{"status", "-o", "xml"}, "allowed are json and text"},
      {{"status", "--timeout", "0"}, "--timeout 0"},
      {{"status", "--timeout", "soon"}, "--timeout soon"},
      {{"status", "--timeout"}, "--timeout needs a value"},
      {{"status", "--endpoint="}, "--endpoint needs a value"},
      {{"status", "--endpoint", "unix:"}, "unix:"},
      {{"status", "--endpoint", "host"}, "host"},
      {{"status", "--endpoint", "unix:/" + std::string(120, 'x')}, "107"},
      {{"status", "--devices", "3"}, "status takes no --devices"},
      {{"jobs", "job"}, "jobs with 1 operands"},
      {{"plan", "--devices", "4"}, "--devices needs --offline"},
      {{"plan", "a", "b"}, "plan with 2 operands"},
      {{"plan", "job", "--offline", "x.csv"}, "exclude each other"},
      {{"plan", "--offline", "x.csv", "--devices", "0"}, "--devices 0"},
      {{"plan", "--offline", "x.csv", "--device-kind", "tpu"}, "allowed are gpu and cpu"},
      {{"drain", "now"}, "drain with 1 operands"},
      {{"snapshot", "job"}, "usage: muonctl snapshot JOB DIRECTORY"},
      {{"doctor", "--offline", "x"}, "doctor takes no --offline"},
      {{"-o", "json"}, "no command"},
  };
  for (const auto& wrong : kWrong) {
    std::vector<std::string> argv = {MUONCTL};
    argv.insert(argv.end(), wrong.words.begin(), wrong.words.end());
    const Ran ran = RunProgram(argv);
    EXPECT_EQ(ran.code, 2) << wrong.error;
    EXPECT_THAT(ran.err, AllOf(HasSubstr(wrong.error), HasSubstr("muonctl --help")));
    EXPECT_EQ(ran.out, "");
  }
}

TEST(CtlTest, HelpTellsEveryCommandAndTheExitCodes) {
  const Ran ran = RunProgram({MUONCTL, "--help"});
  EXPECT_EQ(ran.code, 0);
  for (const char* command :
       {"status", "jobs", "plan", "drain", "snapshot", "cluster", "doctor", "exit status"}) {
    EXPECT_THAT(ran.out, HasSubstr(command));
  }
  EXPECT_EQ(RunProgram({MUONCTL, "plan", "--help"}).code, 0);
  EXPECT_EQ(RunProgram({MUONCTL, "--version"}).code, 0);
}

}  // namespace
}  // namespace muond
