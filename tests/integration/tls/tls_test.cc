// TLS on TCP doors: real processes, certificates made here. Who is let in, who is not, and what a replaced certificate does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "proto/stubs/coordinator_stub.h"
#include "tests/support/certificates.h"
#include "tests/support/daemon_under_test.h"
#include "tests/support/run_program.h"

namespace muond {
namespace {

using ::muond::testing::Authority;
using ::muond::testing::Seen;
using ::muond::testing::ShakeHands;
using ::muond::testing::TlsFlags;
using ::testing::HasSubstr;

constexpr int kUnreachable = 3;  // muonctl's exit status

class TlsTest : public ::testing::Test {
 protected:
  // A coordinator on TCP with `flags`; its address.
  std::string Serve(const std::vector<std::string>& flags) {
    std::vector<std::string> argv = {MUOND_COORDINATOR, "--listen=127.0.0.1:0"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    process_ = std::make_unique<ChildProcess>(argv, scratch_ / "log");
    const std::string mark = "endpoint=127.0.0.1:";
    EXPECT_TRUE(Eventually([&] { return Log().find(mark) != std::string::npos; })) << Log();
    const size_t at = Log().find(mark) + 9;
    return Log().substr(at, Log().find(' ', at) - at);
  }
  std::string Log() const { return ReadWhole(scratch_ / "log"); }
  static Ran Ask(const std::string& endpoint, const TlsOptions& tls) {
    std::vector<std::string> argv = {MUONCTL, "cluster", "--endpoint", endpoint, "--timeout=20"};
    for (const std::string& flag : TlsFlags(tls)) argv.push_back(flag);
    return RunProgram(argv);
  }

  ScratchDirectory scratch_;
  Authority authority_{scratch_.path(), "ours"};
  Authority stranger_{scratch_.path(), "stranger"};
  const TlsOptions door_ = authority_.Side("door");
  const TlsOptions caller_ = authority_.Side("caller");
  std::unique_ptr<ChildProcess> process_;
};

TEST_F(TlsTest, TheRightCertificateIsLetInAndEveryOtherIsNot) {
  const std::string endpoint = Serve(TlsFlags(door_));
  const Ran good = Ask(endpoint, caller_);
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_THAT(good.out, HasSubstr("no daemons"));

  TlsOptions nameless;
  nameless.ca = authority_.ca();
  EXPECT_EQ(Ask(endpoint, nameless).code, kUnreachable);
  EXPECT_FALSE(ShakeHands(endpoint, nameless).let_in);

  TlsOptions forged = stranger_.Side("forged");
  EXPECT_FALSE(ShakeHands(endpoint, forged).let_in);
  forged.ca = authority_.ca();
  EXPECT_EQ(Ask(endpoint, forged).code, kUnreachable);

  TlsOptions ended = caller_;
  ended.cert = authority_.Issue("ended", -7200, -3600).cert;
  ended.key = scratch_ / "ended.key";
  EXPECT_FALSE(ShakeHands(endpoint, ended).let_in);

  EXPECT_TRUE(ShakeHands(endpoint, caller_).let_in) << "the others did not spoil the door";
  EXPECT_EQ(Ask(endpoint, TlsOptions()).code, kUnreachable) << "plain text at a TLS door";
}

TEST_F(TlsTest, ACallerTrustsOnlyADoorOfItsAuthority) {
  const std::string endpoint = Serve(TlsFlags(stranger_.Side("theirs")));
  TlsOptions caller = stranger_.Side("caller2");
  EXPECT_EQ(Ask(endpoint, caller).code, 0);
  caller.ca = authority_.ca();
  const Ran refused = Ask(endpoint, caller);
  EXPECT_EQ(refused.code, kUnreachable);
  EXPECT_THAT(refused.err, HasSubstr(endpoint));
}

TEST_F(TlsTest, WithoutRequiringOneACallerNeedsNoCertificate) {
  std::vector<std::string> flags = TlsFlags(door_);
  flags.push_back("--tls-require-client-cert=false");
  const std::string endpoint = Serve(flags);
  TlsOptions nameless;
  nameless.ca = authority_.ca();
  EXPECT_EQ(Ask(endpoint, nameless).code, 0);
  EXPECT_FALSE(ShakeHands(endpoint, stranger_.Side("forged")).let_in)
      << "a certificate that is shown must be good";
}

TEST_F(TlsTest, AReplacedCertificateIsShownWithoutARestartAndCutsNobodyOff) {
  // Replaced as Kubernetes does it: the files lie behind one link, and the link is renamed.
  const auto issue = [this](const std::string& folder) {
    std::filesystem::create_directory(scratch_ / folder);
    authority_.Issue(folder + "/caller");
    const int64_t serial = authority_.Issue(folder + "/door").serial;
    std::filesystem::create_directory_symlink(scratch_ / folder, scratch_ / "next");
    std::filesystem::rename(scratch_ / "next", scratch_ / "live");
    return serial;
  };
  issue("first");
  const auto side = [this](const std::string& name) {
    TlsOptions tls;
    tls.cert = scratch_ / ("live/" + name + ".pem");
    tls.key = scratch_ / ("live/" + name + ".key");
    tls.ca = authority_.ca();
    return tls;
  };
  const std::string endpoint = Serve(TlsFlags(side("door")));
  StubOptions options;
  options.tls = side("caller");
  options.wait_for_ready = true;
  const auto before = *CoordinatorStub::Create(endpoint, options);
  ASSERT_TRUE(before->GetCluster().ok());
  const Seen first = ShakeHands(endpoint, caller_);
  ASSERT_TRUE(first.let_in);

  const int64_t serial = issue("second");
  ASSERT_NE(first.serial, serial);
  EXPECT_TRUE(Eventually([&] {
    const Seen now = ShakeHands(endpoint, caller_);
    return now.let_in && now.serial == serial;
  }));
  EXPECT_TRUE(before->GetCluster().ok()) << "the connection of before goes on";
  EXPECT_FALSE(process_->Ended());

  // The door gone and back, the same stub.
  process_->Signal(SIGKILL);
  process_->Wait();
  std::vector<std::string> argv = TlsFlags(side("door"));
  argv.insert(argv.begin(), {MUOND_COORDINATOR, "--listen=" + endpoint});
  process_ = std::make_unique<ChildProcess>(argv, scratch_ / "log");
  EXPECT_TRUE(Eventually([&] { return before->GetCluster().ok(); })) << Log();
}

TEST_F(TlsTest, ADaemonJoinsItsCoordinatorAndServesItsOwnDoorByTheSameCertificate) {
  const std::string endpoint = Serve(TlsFlags(door_));
  std::vector<std::string> flags = TlsFlags(caller_);
  flags.push_back("--coordinator=" + endpoint);
  flags.push_back("--listen-tcp=127.0.0.1:0");
  DaemonUnderTest daemon(MUOND_BINARY, flags);
  ASSERT_TRUE(daemon.Serves()) << daemon.log();
  EXPECT_THAT(Ask(endpoint, caller_).out, HasSubstr(daemon.endpoint()));

  const std::string tcp = daemon.Field("tcp");
  EXPECT_TRUE(ShakeHands(tcp, door_).let_in) << tcp << "\n" << daemon.log();
  EXPECT_FALSE(ShakeHands(tcp, TlsOptions()).let_in);
  EXPECT_EQ(RunProgram({MUONCTL, "status", "--endpoint", daemon.endpoint()}).code, 0)
      << "the Unix socket stays as it is";
}

TEST_F(TlsTest, HalfASetAndPlainTcpBeyondLoopbackAreStartErrors) {
  const auto error = [](std::vector<std::string> argv) {
    argv.push_back("--check-config");
    const Ran ran = RunProgram(argv);
    EXPECT_EQ(ran.code, 2) << ran.out;
    return ran.err;
  };
  for (const char* program : {MUOND_COORDINATOR, MUOND_BINARY}) {
    const std::string door =
        program == std::string(MUOND_BINARY) ? "--listen-tcp=0.0.0.0:0" : "--listen=0.0.0.0:0";
    EXPECT_THAT(error({program, door}), HasSubstr("plain_tcp"));
    EXPECT_THAT(error({program, door, "--tls-cert=" + door_.cert}),
                HasSubstr("tls_cert is given without tls_key"));
    EXPECT_THAT(error({program, "--tls-crt=x"}), HasSubstr("--tls-cert"));
    EXPECT_EQ(RunProgram({program, door, "--plain-tcp", "--check-config"}).code, 0);
  }
  EXPECT_THAT(error({MUOND_BINARY, "--coordinator=node-7:7000"}), HasSubstr("tls_ca"));
}

}  // namespace
}  // namespace muond
