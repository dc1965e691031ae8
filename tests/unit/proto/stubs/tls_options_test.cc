// What certificate options are refused, and with which sentence.
#include "proto/stubs/tls_options.h"

#include <filesystem>
#include <fstream>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/stubs/coordinator_stub.h"
#include "tests/support/certificates.h"
#include "tests/support/scratch_directory.h"

namespace muond {
namespace {

using ::muond::testing::Authority;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class TlsOptionsTest : public ::testing::Test {
 protected:
  static std::string Door(const TlsOptions& tls, const std::string& endpoint = "10.1.2.3:7000") {
    return std::string(CheckDoorTls(endpoint, tls, absl::Now()).message());
  }
  static std::string Call(const TlsOptions& tls, const std::string& endpoint = "10.1.2.3:7000") {
    return std::string(CheckCallTls(endpoint, tls, absl::Now()).message());
  }
  ScratchDirectory scratch_;
  Authority authority_{scratch_.path(), "authority"};
  TlsOptions whole_ = authority_.Side("one");
};

TEST_F(TlsOptionsTest, AWholeSetIsGoodForDoorsAndCalls) {
  EXPECT_EQ(Door(whole_), "");
  EXPECT_EQ(Call(whole_), "");
  TlsOptions caller;
  caller.ca = whole_.ca;
  EXPECT_EQ(Call(caller), "");
  TlsOptions open = whole_;
  open.ca.clear();
  open.require_client_cert = false;
  EXPECT_EQ(Door(open), "");
}

TEST_F(TlsOptionsTest, PlainTcpBeyondLoopbackIsToBeAllowedFirst) {
  TlsOptions none;
  EXPECT_THAT(Door(none, "0.0.0.0:7000"), AllOf(HasSubstr("0.0.0.0:7000"), HasSubstr("plain_tcp")));
  EXPECT_THAT(Call(none, "node-2:7000"), AllOf(HasSubstr("node-2:7000"), HasSubstr("tls_ca")));
  EXPECT_EQ(CoordinatorStub::Create("node-2:7000").status().code(),
            absl::StatusCode::kInvalidArgument);
  for (const char* endpoint : {"127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/x.sock", ""}) {
    EXPECT_EQ(Door(none, endpoint), "");
    EXPECT_EQ(Call(none, endpoint), "");
  }
  // A name that only begins as loopback does.
  EXPECT_NE(Door(none, "localhost.example.org:1"), "");
  none.plain_tcp = true;
  EXPECT_EQ(Door(none), "");
  EXPECT_EQ(Call(none), "");
}

TEST_F(TlsOptionsTest, HalfASetIsRefusedByTheNameOfWhatIsMissing) {
  TlsOptions half = whole_;
  half.key.clear();
  EXPECT_THAT(Door(half), StartsWith("tls_cert is given without tls_key"));
  EXPECT_THAT(Call(half), StartsWith("tls_cert is given without tls_key"));
  half = whole_;
  half.cert.clear();
  EXPECT_THAT(Door(half), StartsWith("tls_key is given without tls_cert"));
  half = whole_;
  half.ca.clear();
  EXPECT_THAT(Door(half), HasSubstr("tls_require_client_cert: false"));
  EXPECT_THAT(Call(half), StartsWith("tls_ca is missing"));
  half = TlsOptions();
  half.ca = whole_.ca;
  EXPECT_THAT(Door(half, "127.0.0.1:1"), HasSubstr("plain text"));
}

TEST_F(TlsOptionsTest, FilesThatCannotServeAreRefusedByTheirPath) {
  TlsOptions wrong = whole_;
  wrong.key = authority_.Side("two").key;
  EXPECT_THAT(Door(wrong), AllOf(StartsWith("tls_key: " + wrong.key), HasSubstr("is not the key"),
                                 HasSubstr(whole_.cert)));
  wrong = whole_;
  wrong.cert = scratch_ / "nothing.pem";
  EXPECT_THAT(Door(wrong), AllOf(StartsWith("tls_cert: "), HasSubstr("cannot be read")));
  std::ofstream(scratch_ / "text.pem") << "no certificate\n";
  wrong.cert = scratch_ / "text.pem";
  EXPECT_THAT(Door(wrong), HasSubstr("holds no certificate in PEM"));
  wrong = whole_;
  wrong.key = scratch_ / "text.pem";
  EXPECT_THAT(Door(wrong), HasSubstr("holds no private key in PEM"));
  wrong = whole_;
  wrong.ca = scratch_ / "text.pem";
  EXPECT_THAT(Door(wrong), StartsWith("tls_ca: "));
}

TEST_F(TlsOptionsTest, ACertificateThatHasEndedOrNotBegunSaysWhen) {
  for (const auto& [begin, end] : {std::pair{-7200, -3600}, std::pair{3600, 7200}}) {
    authority_.Issue("late", begin, end);
    TlsOptions late = whole_;
    late.cert = scratch_ / "late.pem";
    late.key = scratch_ / "late.key";
    EXPECT_THAT(Door(late), AllOf(StartsWith("tls_cert: " + late.cert), HasSubstr("is valid from"),
                                  HasSubstr("UTC; now is")));
  }
  const auto ends = CertificateEnd(whole_.cert);
  ASSERT_TRUE(ends.ok()) << ends.status();
  EXPECT_NEAR(absl::ToDoubleSeconds(*ends - absl::Now()), 3600, 60);
}

}  // namespace
}  // namespace muond
