// A gradient that the rank writes where the daemon reads it: nothing is copied, and the step is the same.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "client/core/client.h"
#include "client/core/daemon_process.h"
#include "gtest/gtest.h"
#include "tests/support/manifests.h"

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::Tensor;

constexpr int kSteps = 4;

// Runs a job of its own and appends the parameters after every step.
void Train(const std::string& endpoint, const std::string& job, bool in_place,
           std::vector<char>* parameters) {
  Manifest manifest = EmptyManifest(1, job);
  manifest.tensors = {Tensor("w", {24, 16}), Tensor("b", {33}, Rule::kAdamW)};
  AttachOptions options;
  options.endpoint = endpoint;
  auto client = AttachToDaemon(options, manifest, Replicated(manifest)[0]);
  ASSERT_TRUE(client.ok()) << client.status();
  StepSettings settings;
  settings.groups.assign(2, GroupScalars{1e-2, 0.1, 0.95, 1e-8, 0.9, 0.99, 1});
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> own;
  for (int step = 0; step < kSteps; ++step) {
    for (size_t shard = 0; shard < manifest.tensors.size(); ++shard) {
      const ShardInSlab& place = (*client)->places()[shard];
      const size_t elements = place.size_bytes / sizeof(float);
      own.resize(elements);
      char* in_slab = (*client)->gradient_slab()->data() + place.gradient_offset;
      float* gradient = in_place ? reinterpret_cast<float*>(in_slab) : own.data();
      std::generate_n(gradient, elements, [&] { return normal(random); });
      const auto put = (*client)->Put(static_cast<int32_t>(shard), gradient, place.size_bytes);
      ASSERT_TRUE(put.ok()) << put;
    }
    ASSERT_TRUE((*client)->Commit(settings).ok());
    const auto result = (*client)->Wait(absl::Minutes(1));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(result->applied) << result->text;
    for (const ShardInSlab& place : (*client)->places()) {
      const char* at = (*client)->parameter_slab()->data() + place.parameter_offset;
      parameters->insert(parameters->end(), at, at + place.size_bytes);
    }
  }
  EXPECT_TRUE((*client)->Detach().ok());
}

TEST(InPlaceTest, AGradientWrittenInItsPlaceGivesTheSameParameters) {
  DaemonOptions options;
  options.program = MUOND_BINARY;
  options.arguments = {"--metrics-listen", "off", "--backend", "cpu"};
  auto daemon = DaemonProcess::Start(options);
  ASSERT_TRUE(daemon.ok()) << daemon.status();
  std::vector<char> copied, in_place;
  Train((*daemon)->endpoint(), "copied", false, &copied);
  Train((*daemon)->endpoint(), "in-place", true, &in_place);
  ASSERT_EQ(copied.size(), kSteps * (24 * 16 + 33) * sizeof(float));
  EXPECT_EQ(copied, in_place);
  EXPECT_NE(std::memcmp(copied.data(), copied.data() + copied.size() / kSteps, 64), 0)
      << "the parameters do not move";
  EXPECT_TRUE((*daemon)->Stop(absl::Minutes(1)).ok());
}

}  // namespace
}  // namespace muond
