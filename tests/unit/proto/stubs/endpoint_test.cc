#include "proto/stubs/endpoint.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace muond {
namespace {

using ::testing::HasSubstr;

TEST(EndpointTest, UnixAndTcpAreTaken) {
  EXPECT_EQ(*CanonicalEndpoint("unix:/run/muond.sock"), "unix:/run/muond.sock");
  EXPECT_EQ(*CanonicalEndpoint("unix:///run/muond.sock"), "unix:/run/muond.sock");
  EXPECT_EQ(*CanonicalEndpoint("/run/muond.sock"), "unix:/run/muond.sock");
  EXPECT_EQ(*CanonicalEndpoint("127.0.0.1:7070"), "127.0.0.1:7070");
  EXPECT_EQ(SocketPathOf("unix:/a"), "/a");
  EXPECT_EQ(SocketPathOf("host:1"), "");
}

TEST(EndpointTest, APathThatIsTooLongIsRefusedWithBothCounts) {
  const std::string longest = "/" + std::string(106, 'x');
  EXPECT_TRUE(CanonicalEndpoint(longest).ok());
  EXPECT_THAT(std::string(CanonicalEndpoint("unix:" + longest + "y").status().message()),
              HasSubstr("its socket path has 108 bytes, the system allows 107"));
}

TEST(EndpointTest, WhatIsNoEndpointIsRefused) {
  for (const char* bad : {"", "unix:relative", "unix:", "unix-abstract:x", "host", ":1",
                          "host:", "host:70000", "host:x"}) {
    EXPECT_EQ(CanonicalEndpoint(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace muond
