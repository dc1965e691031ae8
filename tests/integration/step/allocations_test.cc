// A steady step allocates nothing, neither in the daemon nor in the rank: counted in a real daemon (its malloc is preloaded) and
// in this process's own thread (see tests/support/malloc_counter.c).
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/core/client.h"
#include "client/core/daemon_process.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/stubs/daemon_stub.h"
#include "tests/support/manifests.h"
#include "tests/support/scratch_directory.h"

extern "C" uint64_t malloc_counter_of_this_thread(void);

namespace muond {
namespace {

using ::muond::testing::EmptyManifest;
using ::muond::testing::Replicated;
using ::muond::testing::Tensor;

constexpr int kWarmUpSteps = 200;  // until every list, queue and message has its working size
constexpr int kSteps = 20;
constexpr int kWindows = 10;

class AllocationsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("LD_PRELOAD", MALLOC_COUNTER, 1);
    ::setenv("MALLOC_COUNTER_DIRECTORY", scratch_.path().c_str(), 1);
    DaemonOptions options;
    options.program = MUOND_BINARY;
    options.arguments = {"--metrics-listen", "off", "--backend", "cpu", "--cpu-devices", "2"};
    auto daemon = DaemonProcess::Start(options);
    ::unsetenv("LD_PRELOAD");
    ::unsetenv("MALLOC_COUNTER_DIRECTORY");
    ASSERT_TRUE(daemon.ok()) << daemon.status();
    daemon_ = *std::move(daemon);
    auto stub = DaemonStub::Create(daemon_->endpoint());
    ASSERT_TRUE(stub.ok()) << stub.status();
    const auto status = (*stub)->GetStatus();
    ASSERT_TRUE(status.ok()) << status.status();
    const std::string path = scratch_ / absl::StrCat(status->stepper_pid);
    const int file = ::open(path.c_str(), O_RDONLY);
    ASSERT_GE(file, 0) << path;
    void* page = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, file, 0);
    ::close(file);
    ASSERT_NE(page, MAP_FAILED);
    of_daemon_ = static_cast<const std::atomic<uint64_t>*>(page);
    ASSERT_GT(*of_daemon_, 1000u) << "the daemon's allocations are not counted";
  }
  void TearDown() override {
    if (of_daemon_ != nullptr) ::munmap(const_cast<std::atomic<uint64_t>*>(of_daemon_), 4096);
    if (daemon_ == nullptr) return;
    EXPECT_TRUE(daemon_->Stop(absl::Minutes(1)).ok());
  }

  void Attach(const Manifest& manifest) {
    AttachOptions options;
    options.endpoint = daemon_->endpoint();
    auto client = AttachToDaemon(options, manifest, Replicated(manifest)[0]);
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    uint64_t largest = 0;
    for (const ShardInSlab& place : client_->places())
      largest = std::max(largest, place.size_bytes);
    gradient_.assign(largest / sizeof(float), 0.25f);
    settings_.groups.assign(manifest.groups.size(),
                            GroupScalars{1e-3, 0.1, 0.95, 1e-8, 0.9, 0.99, 1});
  }

  void Step() {
    for (size_t shard = 0; shard < client_->places().size(); ++shard) {
      const auto put = client_->Put(static_cast<int32_t>(shard), gradient_.data(),
                                    client_->places()[shard].size_bytes);
      ASSERT_TRUE(put.ok()) << put;
    }
    const auto committed = client_->Commit(settings_);
    ASSERT_TRUE(committed.ok()) << committed.status();
    const auto result = client_->Wait(absl::Minutes(1));
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(result->applied) << result->text;
  }

  // The fewest of ten times twenty steps: what a step needs it needs every time; gRPC's threads and heartbeats come by now
  // and then.
  void ExpectNoneInASteadyStep() {
    for (int step = 0; step < kWarmUpSteps; ++step) Step();
    uint64_t daemon = UINT64_MAX, rank = UINT64_MAX;
    for (int window = 0; window < kWindows; ++window) {
      const uint64_t daemon_before = *of_daemon_, rank_before = malloc_counter_of_this_thread();
      for (int step = 0; step < kSteps; ++step) Step();
      rank = std::min(rank, malloc_counter_of_this_thread() - rank_before);
      daemon = std::min<uint64_t>(daemon, *of_daemon_ - daemon_before);
    }
    EXPECT_EQ(daemon, 0u) << "allocations of the daemon in " << kSteps << " steps";
    EXPECT_EQ(rank, 0u) << "allocations of the rank in " << kSteps << " steps";
    EXPECT_TRUE(client_->Detach().ok());
  }

  ScratchDirectory scratch_;
  std::unique_ptr<DaemonProcess> daemon_;
  const std::atomic<uint64_t>* of_daemon_ = nullptr;
  std::unique_ptr<Client> client_;
  std::vector<float> gradient_;
  StepSettings settings_;
};

Manifest Norms() {
  Manifest manifest = EmptyManifest(1, "norms");
  for (int i = 0; i < 6; ++i) {
    manifest.tensors.push_back(Tensor(absl::StrCat("t", i), {700, 50 + i}, Rule::kAdamW));
    manifest.tensors.back().bucket = i / 2;
  }
  manifest.buckets = 3;
  return manifest;
}

Manifest Layers() {
  Manifest manifest = EmptyManifest(1, "layers");
  for (int i = 0; i < 6; ++i) {
    manifest.tensors.push_back(Tensor(absl::StrCat("t", i), i % 3 == 0
                                                                ? std::vector<int64_t>{96, 32}
                                                                : std::vector<int64_t>{40, 40}));
    manifest.tensors.back().bucket = i / 2;
  }
  manifest.buckets = 3;
  return manifest;
}

TEST_F(AllocationsTest, OfAdamW) {
  ASSERT_NO_FATAL_FAILURE(Attach(Norms()));
  ExpectNoneInASteadyStep();
}

TEST_F(AllocationsTest, OfAdamWWithClipping) {
  ASSERT_NO_FATAL_FAILURE(Attach(Norms()));
  settings_.clip_norm = 1;
  ExpectNoneInASteadyStep();
}

TEST_F(AllocationsTest, OfMuon) {
  ASSERT_NO_FATAL_FAILURE(Attach(Layers()));
  ExpectNoneInASteadyStep();
}

}  // namespace
}  // namespace muond
