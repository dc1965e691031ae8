// The CUDA backend under the contract of backends, and what only CUDA has: borrowed streams, poisoned devices.
#include <cuda_runtime_api.h>

#include <cstring>

#include "kernels/runtime/cuda/cuda_device.h"
#include "kernels/runtime/cuda/cuda_stream.h"
#include "kernels/runtime/cuda/host_registry.h"
#include "tests/support/backend_contract.h"

namespace muond::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Cuda, BackendContractTest,
                         ::testing::Values(BackendCase{"cuda", &CreateCudaBackend}),
                         [](const auto& info) { return info.param.name; });

class CudaBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = CreateCudaBackend();
    if (absl::IsUnavailable(backend.status())) GTEST_SKIP() << backend.status();
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }
  CudaDevice& device() { return static_cast<CudaDevice&>(*backend_->devices()[0]); }

  std::unique_ptr<Backend> backend_;
};

TEST_F(CudaBackendTest, ADeviceIsNamedByTheDriversUuid) {
  const DeviceInfo& info = device().info();
  EXPECT_EQ(info.uuid.size(), std::strlen("GPU-00000000-0000-0000-0000-000000000000")) << info.uuid;
  EXPECT_EQ(info.uuid.substr(0, 4), "GPU-");
  EXPECT_EQ(info.architecture.substr(0, 3), "sm_");
  EXPECT_GE(device().compute_capability(), 80);
}

TEST_F(CudaBackendTest, ABorrowedStreamIssuesAtOnceAndIsLeftToItsOwner) {
  cudaStream_t raw = nullptr;
  ASSERT_EQ(cudaStreamCreate(&raw), cudaSuccess);
  DeviceArray<uint32_t> array(device(), 4);
  std::vector<uint32_t> back(4);
  {
    auto stream = BorrowStream(device(), raw);
    const std::vector<uint32_t> values = {4, 3, 2, 1};
    stream->Copy(array.data(), values.data(), 16);
    stream->Zero(array.data() + 1, 4);
  }
  // The owner's own call comes after what was enqueued through the borrowed one.
  ASSERT_EQ(cudaMemcpyAsync(back.data(), array.data(), 16, cudaMemcpyDeviceToHost, raw),
            cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(raw), cudaSuccess);
  EXPECT_EQ(back, (std::vector<uint32_t>{4, 0, 2, 1}));
  EXPECT_EQ(cudaStreamDestroy(raw), cudaSuccess);
}

TEST_F(CudaBackendTest, CallersDoNotBlockHoweverMuchWorkStandsBehindAWait) {
  auto stream = device().CreateStream().value();
  SharedValue<Cell> cell;
  DeviceArray<uint32_t> array(device(), 1);
  stream->WaitCell(cell.get(), 1);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 5000; ++i) stream->Zero(array.data(), 4);  // far beyond one hardware queue
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_TRUE(stream->health().ok());
  StoreCell(cell.get(), 1);
  EXPECT_TRUE(stream->Synchronize().ok());
}

TEST_F(CudaBackendTest, AFreshSlabAtAnOldAddressHasItsOwnCells) {
  auto stream = device().CreateStream().value();
  for (uint64_t round = 1; round <= 20; ++round) {  // the kernel gives the same address out again
    SharedValue<Cell> cell;
    stream->WriteCell(cell.get(), round);
    ASSERT_TRUE(stream->Synchronize().ok());
    EXPECT_EQ(cell->load(), round);
  }
}

TEST_F(CudaBackendTest, ARefusedCallStaysWithItsStreamAlone) {
  auto bad = device().CreateStream().value(), good = device().CreateStream().value();
  static_cast<CudaStream&>(*bad).Enqueue("a refused call",
                                         [](cudaStream_t) { return cudaErrorInvalidValue; });
  const absl::Status status = bad->Synchronize();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("a refused call"));
  EXPECT_EQ(bad->health(), status);
  bool ran = false;
  bad->Host([&] { ran = true; });
  EXPECT_EQ(bad->Synchronize(), status);
  EXPECT_FALSE(ran);
  EXPECT_TRUE(good->Synchronize().ok());
}

// Runs in a child: the error stays with the process that made it.
int PoisonAndReport() {
  auto backend = CreateCudaBackend();
  if (!backend.ok()) return 10;
  auto& device = static_cast<CudaDevice&>(*(*backend)->devices()[0]);
  auto stream = device.CreateStream().value(), other = device.CreateStream().value();
  static_cast<CudaStream&>(*stream).Enqueue("a sticky failure",
                                            [](cudaStream_t) { return cudaErrorIllegalAddress; });
  if (!absl::IsDataLoss(stream->Synchronize())) return 11;
  if (!absl::IsDataLoss(other->health())) return 12;
  if (!absl::IsDataLoss(device.Allocate(16).status())) return 13;
  if (!absl::IsDataLoss(device.CreateSlab("slab", 16).status())) return 14;
  if (!absl::IsDataLoss(device.CreateStream().status())) return 15;
  return 0;
}

TEST_F(CudaBackendTest, AStickyErrorPoisonsTheWholeDevice) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(std::exit(PoisonAndReport()), ::testing::ExitedWithCode(0), "");
}

TEST_F(CudaBackendTest, AStreamBehindAWaitThatNeverComesCanBeDestroyed) {
  auto cell = std::make_unique<SharedValue<Cell>>();
  auto ran = std::make_shared<std::atomic<bool>>(false);
  auto stream = device().CreateStream().value();
  stream->WaitCell(cell->get(), 1);
  stream->Host([ran] { *ran = true; });
  stream.reset();
  StoreCell(cell->get(), 1);  // lets the hardware go; the host work was dropped
  ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_FALSE(*ran);
}

}  // namespace
}  // namespace muond::testing
