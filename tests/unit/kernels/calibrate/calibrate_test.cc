// Calibration on the CPU, and the shipped tables.
#include "kernels/calibrate/calibrate.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

namespace muond {
namespace {

TEST(CalibrateTest, ACpuGivesATableThatThePlannerReads) {
  auto backend = CreateCpuBackend({}).value();
  Device& device = *backend->devices()[0];
  auto ops = CreateCpuOps();
  std::ostringstream progress;
  const auto model = Calibrate(device, *ops, {.seconds = 0.2, .sides = {48, 16}}, &progress);
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->points().size(), 2u);
  EXPECT_EQ(model->points()[0].side, 16);
  EXPECT_EQ(model->points()[1].side, 48);
  for (const CostModel::Point& point : model->points()) EXPECT_GT(point.flop_per_second, 0);
  const auto read = CostModel::Parse(model->ToText());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_DOUBLE_EQ(read->FlopPerSecond(48), model->FlopPerSecond(48));
  EXPECT_NE(progress.str().find("side    48"), std::string::npos) << progress.str();
}

TEST(CalibrateTest, TheShippedTablesAreReadable) {
  for (const char* name : {"h100.txt", "h200.txt"}) {
    std::ifstream file(std::string(MUOND_CALIBRATION_TABLES) + "/" + name);
    std::stringstream text;
    text << file.rdbuf();
    const auto model = CostModel::Parse(text.str());
    ASSERT_TRUE(model.ok()) << name << ": " << model.status();
    EXPECT_GT(model->bytes_per_second(), 1e12);
    EXPECT_GT(model->FlopPerSecond(4096), model->FlopPerSecond(512));
  }
}

}  // namespace
}  // namespace muond
