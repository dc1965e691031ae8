// The contract of Backend, Device, Stream and Slab: every implementation instantiates it.
//   INSTANTIATE_TEST_SUITE_P(Cpu, BackendContractTest, ::testing::Values(BackendCase{"cpu", &Make}));
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/runtime/backend.h"
#include "tests/support/device_array.h"

namespace muond::testing {

struct BackendCase {
  std::string name;
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> create;
};
inline void PrintTo(const BackendCase& backend, std::ostream* out) { *out << backend.name; }

class BackendContractTest : public ::testing::TestWithParam<BackendCase> {
 protected:
  void SetUp() override {
    auto backend = GetParam().create();
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status();
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    ASSERT_FALSE(backend_->devices().empty());
    stream_ = device().CreateStream().value();
  }
  Device& device() { return *backend_->devices()[0]; }
  Stream& stream() { return *stream_; }

  // An existing slab's bytes as the device sees them.
  std::vector<uint8_t> Bytes(const Slab& slab) {
    std::vector<uint8_t> bytes(slab.size_bytes());
    stream().Copy(bytes.data(), slab.data(), bytes.size());
    EXPECT_TRUE(stream().Synchronize().ok());
    return bytes;
  }

  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackendContractTest);

TEST_P(BackendContractTest, DevicesAreNumberedAndNamed) {
  std::set<std::string> uuids;
  for (size_t i = 0; i < backend_->devices().size(); ++i) {
    const DeviceInfo& info = backend_->devices()[i]->info();
    EXPECT_EQ(info.ordinal, static_cast<int>(i));
    EXPECT_FALSE(info.uuid.empty());
    EXPECT_FALSE(info.name.empty());
    EXPECT_FALSE(info.architecture.empty());
    EXPECT_GT(info.memory_bytes, 0u);
    uuids.insert(info.uuid);
  }
  EXPECT_EQ(uuids.size(), backend_->devices().size());
}

TEST_P(BackendContractTest, FreshMemoryIsZero) {
  for (int round = 0; round < 3; ++round) {
    std::vector<uint8_t> dirty(100'000, 0xab);
    DeviceArray<uint8_t> array(device(), dirty.size());
    EXPECT_EQ(array.Download(stream()), std::vector<uint8_t>(dirty.size()));
    array.Upload(stream(), dirty);
    auto slab = device().CreateSlab("zero", 4096).value();
    EXPECT_EQ(Bytes(*slab), std::vector<uint8_t>(4096));
    stream().Copy(slab->data(), dirty.data(), 4096);
    ASSERT_TRUE(stream().Synchronize().ok());
  }
}

TEST_P(BackendContractTest, WorkRunsInOrder) {
  std::vector<int> order;
  for (int i = 0; i < 1000; ++i) stream().Host([&order, i] { order.push_back(i); });
  ASSERT_TRUE(stream().Synchronize().ok());
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST_P(BackendContractTest, HostWorkSeesWhatWasCopiedBefore) {
  const std::vector<uint32_t> values = {1, 2, 3, 5, 8};
  std::vector<uint32_t> back(values.size()), seen;
  DeviceArray<uint32_t> array(device(), values.size());
  stream().Copy(array.data(), values.data(), values.size() * 4);
  stream().Zero(array.data(), 4);
  stream().Copy(back.data(), array.data(), values.size() * 4);
  stream().Host([&] { seen = back; });
  ASSERT_TRUE(stream().Synchronize().ok());
  EXPECT_EQ(seen, (std::vector<uint32_t>{0, 2, 3, 5, 8}));
}

TEST_P(BackendContractTest, AWaitHoldsBackWhatFollowsUntilAPlainStore) {
  SharedValue<Cell> cell;
  std::atomic<bool> passed = false;
  stream().WaitCell(cell.get(), 7);
  stream().Host([&] { passed = true; });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(passed);
  cell->store(6, std::memory_order_release);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(passed);
  cell->store(8, std::memory_order_release);
  ASSERT_TRUE(stream().Synchronize().ok());
  EXPECT_TRUE(passed);
}

TEST_P(BackendContractTest, PoisonSatisfiesEveryWait) {
  SharedValue<Cell> cell;
  stream().WaitCell(cell.get(), kPoison - 1);
  StoreCell(cell.get(), kPoison);
  EXPECT_TRUE(stream().Synchronize().ok());
}

TEST_P(BackendContractTest, AWrittenCellShowsTheWritesBeforeIt) {
  SharedValue<Cell> cell;
  std::vector<uint64_t> back(1);
  DeviceArray<uint64_t> array(device(), 1);
  for (uint64_t step = 1; step <= 50; ++step) {
    const std::vector<uint64_t> value = {step * step};
    stream().Copy(array.data(), value.data(), 8);
    stream().Copy(back.data(), array.data(), 8);
    stream().WriteCell(cell.get(), step);
    ASSERT_TRUE(WaitCell(cell.get(), step, std::chrono::seconds(20)));
    EXPECT_EQ(back[0], step * step);
    ASSERT_TRUE(stream().Synchronize().ok());
  }
}

TEST_P(BackendContractTest, TwoStreamsPlayPingPongOverCells) {
  auto second = device().CreateStream().value();
  SharedValue<Cell> ping, pong;
  constexpr uint64_t kRounds = 100;
  std::vector<uint64_t> order;  // the cells order the two streams' host work
  for (uint64_t i = 1; i <= kRounds; ++i) {
    stream().Host([&order, i] { order.push_back(2 * i); });
    stream().WriteCell(ping.get(), i);
    second->WaitCell(ping.get(), i);
    second->Host([&order, i] { order.push_back(2 * i + 1); });
    second->WriteCell(pong.get(), i);
    stream().WaitCell(pong.get(), i);
  }
  ASSERT_TRUE(stream().Synchronize().ok());
  ASSERT_TRUE(second->Synchronize().ok());
  ASSERT_EQ(order.size(), 2 * kRounds);
  for (uint64_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i + 2);
}

TEST_P(BackendContractTest, TooMuchMemoryIsRefusedWithBothCounts) {
  const uint64_t free = device().free_bytes();
  const uint64_t wanted = device().info().memory_bytes + (uint64_t{1} << 30);
  for (const absl::Status& status :
       {device().Allocate(wanted).status(), device().CreateSlab("too-large", wanted).status()}) {
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(absl::StrCat(wanted)));
    EXPECT_THAT(std::string(status.message()),
                ::testing::ContainsRegex("[0-9]+ (of [0-9]+ )?(bytes )?(left|free)"));
  }
  EXPECT_EQ(device().free_bytes(), free);
}

TEST_P(BackendContractTest, MemoryIsTakenAndGivenBack) {
  constexpr size_t kSize = 64 << 20;
  const uint64_t free = device().free_bytes();
  {
    auto buffer = device().Allocate(kSize).value();
    EXPECT_EQ(buffer->size_bytes(), kSize);
    EXPECT_LE(device().free_bytes(), free - kSize);
    auto slab = device().CreateSlab("taken", kSize).value();
    EXPECT_LE(device().free_bytes(), free - 2 * kSize);
  }
  EXPECT_EQ(device().free_bytes(), free);
}

TEST_P(BackendContractTest, AnImportedSlabIsTheSameMemory) {
  auto slab = device().CreateSlab("exported", 1 << 16).value();
  ASSERT_GE(slab->descriptor(), 0);
  auto imported = device().ImportSlab(dup(slab->descriptor()), slab->size_bytes());
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_NE((*imported)->data(), slab->data());
  const std::vector<uint8_t> values(1 << 16, 0x5a);
  stream().Copy((*imported)->data(), values.data(), values.size());
  EXPECT_EQ(Bytes(*slab), values);
  slab.reset();  // the importer's mapping keeps the memory
  EXPECT_EQ(Bytes(**imported), values);
}

TEST_P(BackendContractTest, AnImportOfAnotherSizeIsRefused) {
  auto slab = device().CreateSlab("sized", 1 << 21).value();
  for (size_t said :
       {size_t{1} << 20, size_t{1} << 22, (size_t{1} << 21) + 1, size_t{1} << 62, size_t{0}}) {
    const uint64_t free = device().free_bytes();
    const absl::Status status = device().ImportSlab(dup(slab->descriptor()), said).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << said << ": " << status;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(absl::StrCat(said)));
    EXPECT_EQ(device().free_bytes(), free);
  }
}

TEST_P(BackendContractTest, AnImportOfSomethingElseIsRefusedAndClosed) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  EXPECT_FALSE(device().ImportSlab(pipe_ends[0], 4096).ok());
  EXPECT_EQ(fcntl(pipe_ends[0], F_GETFD), -1);  // ownership passed, also on failure
  close(pipe_ends[1]);
  EXPECT_FALSE(device().ImportSlab(-1, 4096).ok());
}

TEST_P(BackendContractTest, ASlabOfNoBytesIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(device().CreateSlab("empty", 0).status()));
}

TEST_P(BackendContractTest, DevicesRunIndependently) {
  if (backend_->devices().size() < 2) GTEST_SKIP() << "one device";
  auto other = backend_->devices()[1]->CreateStream().value();
  SharedValue<Cell> cell;
  stream().WaitCell(cell.get(), 1);  // device 0 stands still
  std::atomic<bool> ran = false;
  other->Host([&] { ran = true; });
  EXPECT_TRUE(other->Synchronize().ok());
  EXPECT_TRUE(ran);
  StoreCell(cell.get(), 1);
  EXPECT_TRUE(stream().Synchronize().ok());
}

}  // namespace muond::testing
