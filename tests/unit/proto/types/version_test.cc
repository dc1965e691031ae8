#include "proto/types/version.h"

#include "gtest/gtest.h"

namespace muond {
namespace {

TEST(VersionTest, MinorVersionsMayDifferMajorsMayNot) {
  EXPECT_TRUE(CheckVersion({1, 9, "x"}, "the daemon", {1, 0, "y"}).ok());
  EXPECT_TRUE(CheckVersion({1, 0, "x"}, "the daemon", {1, 9, "y"}).ok());
  const absl::Status status = CheckVersion({2, 1, "x"}, "the daemon", {1, 4, "y"});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "the daemon speaks protocol 2.1 (build 'x'), this side 1.4 (build 'y'): the major "
            "versions must be equal");
}

}  // namespace
}  // namespace muond
