// The CPU backend: the common contract, and what is its own.
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <stdexcept>

#include "kernels/runtime/backend.h"
#include "kernels/runtime/shared_pages.h"
#include "tests/support/backend_contract.h"

namespace muond::testing {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> TwoDevices() {
  return CreateCpuBackend({.devices = 2, .memory_bytes_each = uint64_t{1} << 30});
}

INSTANTIATE_TEST_SUITE_P(Cpu, BackendContractTest,
                         ::testing::Values(BackendCase{"cpu", &TwoDevices}));

TEST(CpuBackendTest, RefusesNoDevices) {
  EXPECT_TRUE(absl::IsInvalidArgument(CreateCpuBackend({.devices = 0}).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(CreateCpuBackend({.devices = 100'000}).status()));
}

TEST(CpuBackendTest, MemoryOfTheMachineIsSharedOut) {
  const uint64_t whole =
      CreateCpuBackend({.devices = 1}).value()->devices()[0]->info().memory_bytes;
  const uint64_t third =
      CreateCpuBackend({.devices = 3}).value()->devices()[2]->info().memory_bytes;
  EXPECT_EQ(third, whole / 3);
}

TEST(CpuBackendTest, RefusalNamesWhatIsLeft) {
  auto backend = CreateCpuBackend({.devices = 1, .memory_bytes_each = 1000}).value();
  auto taken = backend->devices()[0]->Allocate(600).value();
  const absl::Status status = backend->devices()[0]->Allocate(401).status();
  EXPECT_EQ(status.message(), "401 bytes needed, 400 of 1000 left on cpu-0");
}

// Bytes that this process has mapped, as the kernel counts them.
uint64_t MappedPages() {
  std::ifstream file("/proc/self/statm");
  uint64_t pages = 0;
  file >> pages;
  return pages;
}

TEST(CpuBackendTest, LargeSlabsLieWhereHugePagesCan) {
  auto backend = TwoDevices().value();
  Device& device = *backend->devices()[0];
  constexpr size_t kBytes = 2 * kHugePageBytes + 12'345;
  const uint64_t mapped = MappedPages();
  {
    auto slab = device.CreateSlab("large", kBytes).value();
    auto* bytes = static_cast<char*>(slab->data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % kHugePageBytes, 0u);
    EXPECT_EQ(std::count(bytes, bytes + kBytes, 0), static_cast<ptrdiff_t>(kBytes));
    bytes[kHugePageBytes] = 7;
    bytes[kBytes - 1] = 8;
    auto again = device.ImportSlab(::dup(slab->descriptor()), kBytes).value();
    const auto* others = static_cast<const char*>(again->data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(others) % kHugePageBytes, 0u);
    EXPECT_EQ(others[kHugePageBytes], 7);
    EXPECT_EQ(others[kBytes - 1], 8);
    // Nothing is kept of the room in which the aligned address was found.
    EXPECT_LE(MappedPages() - mapped, 2 * (kBytes / 4096 + 1) + 64);
  }
  EXPECT_LE(MappedPages(), mapped + 64);
}

TEST(CpuBackendTest, LargeBuffersLieWhereHugePagesCan) {
  auto backend = TwoDevices().value();
  Device& device = *backend->devices()[0];
  const uint64_t before = device.free_bytes();
  constexpr size_t kBytes = 2 * kHugePageBytes + 12'345;
  {
    const uint64_t mapped = MappedPages();
    auto buffer = device.Allocate(kBytes).value();
    EXPECT_LE(MappedPages() - mapped, 3 * kHugePageBytes / 4096 + 64);
    EXPECT_EQ(buffer->size_bytes(), kBytes);
    EXPECT_EQ(before - device.free_bytes(), kBytes);
    char* const bytes = static_cast<char*>(buffer->data());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes) % kHugePageBytes, 0u);
    EXPECT_EQ(bytes[kBytes - 1], 0);
    bytes[kBytes - 1] = 7;
  }
  EXPECT_EQ(device.free_bytes(), before);
}

TEST(CpuBackendTest, DestroyingABlockedStreamDropsWhatIsBehindTheWait) {
  auto backend = TwoDevices().value();
  Cell cell{0};
  bool before = false, behind = false;
  {
    auto stream = backend->devices()[0]->CreateStream().value();
    stream->Host([&] { before = true; });
    stream->WaitCell(&cell, 1);
    stream->Host([&] { behind = true; });
  }
  EXPECT_TRUE(before);
  EXPECT_FALSE(behind);
}

TEST(CpuBackendTest, AThrowIsAStickyFailureOfItsStream) {
  auto backend = TwoDevices().value();
  auto stream = backend->devices()[0]->CreateStream().value();
  bool after = false;
  stream->Host([] { throw std::runtime_error("no such luck"); });
  stream->Host([&] { after = true; });
  const absl::Status status = stream->Synchronize();
  EXPECT_TRUE(absl::IsInternal(status));
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("no such luck"));
  EXPECT_TRUE(after);
  EXPECT_EQ(stream->health(), status);
  EXPECT_TRUE(backend->devices()[0]->CreateStream().value()->Synchronize().ok());
}

TEST(CpuBackendTest, ABlockedStreamUsesNoCore) {
  auto backend = TwoDevices().value();
  Cell cell{0};
  auto stream = backend->devices()[0]->CreateStream().value();
  stream->WaitCell(&cell, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  getrusage(RUSAGE_SELF, &after);
  StoreCell(&cell, 1);
  ASSERT_TRUE(stream->Synchronize().ok());
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  const double used = seconds(after.ru_utime) + seconds(after.ru_stime) - seconds(before.ru_utime) -
                      seconds(before.ru_stime);
  EXPECT_LT(used, 0.06) << "of 0.3 s";
}

TEST(CpuBackendTest, ASlabThatCouldShrinkIsRefused) {
  auto backend = TwoDevices().value();
  const int descriptor = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  ASSERT_EQ(ftruncate(descriptor, 4096), 0);
  const absl::Status status = backend->devices()[0]->ImportSlab(descriptor, 4096).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("not sealed"));
}

TEST(CpuBackendTest, ASlabCannotBeShrunk) {
  auto slab = CreateHostSlab("sealed", 8192).value();
  EXPECT_NE(ftruncate(slab->descriptor(), 4096), 0);
  EXPECT_NE(ftruncate(slab->descriptor(), 16384), 0);
}

TEST(CpuBackendTest, ACellWakesAnotherProcess) {
  SharedValue<Cell> question, answer;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool asked = WaitCell(question.get(), 1, std::chrono::seconds(20));
    StoreCell(answer.get(), asked ? 2 : 1);
    _exit(0);
  }
  StoreCell(question.get(), 1);
  EXPECT_TRUE(WaitCell(answer.get(), 2, std::chrono::seconds(20)));
  int state = 0;
  EXPECT_EQ(waitpid(child, &state, 0), child);
}

TEST(CellTest, AWaitEndsAtItsTimeOut) {
  Cell cell{3};
  EXPECT_TRUE(WaitCell(&cell, 3, std::chrono::nanoseconds(0)));
  EXPECT_FALSE(WaitCell(&cell, 4, std::chrono::milliseconds(5)));
}

}  // namespace
}  // namespace muond::testing
