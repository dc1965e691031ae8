#include "kernels/calibrate/calibrate.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"

namespace muond {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kNoiseElements = 1 << 20;
uint64_t Aligned(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// Seconds of one run of `work`: the median over repeats that fill `seconds`, at least three, each long enough to time.
template <typename Work>
absl::StatusOr<double> Median(Stream& stream, double seconds, Work work) {
  work();
  if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
  auto start = Clock::now();
  work();
  if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
  const double once = std::max(1e-6, std::chrono::duration<double>(Clock::now() - start).count());
  const int runs =
      std::max(1, static_cast<int>(0.02 / once));  // 20 ms a sample hides the host's part
  std::vector<double> samples;
  const auto begin = Clock::now();
  while (samples.size() < 3 ||
         std::chrono::duration<double>(Clock::now() - begin).count() < seconds) {
    start = Clock::now();
    for (int i = 0; i < runs; ++i) work();
    if (absl::Status status = stream.Synchronize(); !status.ok()) return status;
    samples.push_back(std::chrono::duration<double>(Clock::now() - start).count() / runs);
    if (samples.size() == 200) break;
  }
  std::nth_element(samples.begin(), samples.begin() + samples.size() / 2, samples.end());
  return samples[samples.size() / 2];
}

// Gaussian noise, over and over.
void Fill(Stream& stream, float* destination, uint64_t elements, const std::vector<float>& noise) {
  for (uint64_t at = 0; at < elements; at += noise.size()) {
    stream.Copy(destination + at, noise.data(),
                std::min<uint64_t>(noise.size(), elements - at) * sizeof(float));
  }
}

absl::StatusOr<double> BytesPerSecond(Device& device, Stream& stream, Ops& ops, double seconds,
                                      const std::vector<float>& noise) {
  const int64_t elements =
      device.info().kind == DeviceKind::kCuda ? int64_t{1} << 28 : int64_t{1} << 22;
  auto memory = device.Allocate(static_cast<uint64_t>(elements) * 14 + 4096);
  if (!memory.ok()) return memory.status();
  auto* const gradient = static_cast<float*>((*memory)->data());
  float* const momentum = gradient + elements;
  float* const out = momentum + elements;
  Fill(stream, gradient, static_cast<uint64_t>(elements), noise);
  auto scalars = CreateHostSlab("calibrate", sizeof(MuonScalars));
  if (!scalars.ok()) return scalars.status();
  *static_cast<MuonScalars*>((*scalars)->data()) = {
      .lr = 0.01, .weight_decay = 0.1, .momentum = 0.95};
  // Apply on fp32 parameters with an update in the iterate's dtype: what follows every product.
  const int64_t cols = 4096, rows = elements / cols;
  const DType update = ops.iterate_dtype() == DType::kFloat16 ? DType::kFloat16 : DType::kFloat32;
  ApplyTask task{rows,
                 cols,
                 {{gradient, 0, 0, rows, cols, cols, DType::kFloat32, 0}},
                 {out, rows, cols, cols, DType::kFloat32},
                 {momentum, rows, cols, cols, update},
                 static_cast<const MuonScalars*>((*scalars)->data())};
  absl::StatusOr<double> once = Median(stream, seconds, [&] { ops.Apply(stream, {&task, 1}); });
  if (!once.ok()) return once.status();
  return static_cast<double>(elements) * static_cast<double>(8 + SizeOf(update)) / *once;
}

absl::StatusOr<double> FlopPerSecond(Device& device, Stream& stream, Ops& ops, int64_t side,
                                     const CalibrateOptions& options, double seconds,
                                     const std::vector<float>& noise) {
  const DType dtype = ops.iterate_dtype();
  const int64_t length =
      (static_cast<int64_t>(options.aspect * static_cast<double>(side)) + 15) / 16 * 16;
  const CoefficientTable table = *FindCoefficientTable("jordan", 5);
  const uint64_t x_bytes = Aligned(static_cast<uint64_t>(side * length) * SizeOf(dtype));
  const NewtonSchulzTask shape{{nullptr, side, length, length, dtype}, nullptr, &table};
  const uint64_t each = x_bytes + NewtonSchulzWorkspaceBytes(ops, {&shape, 1});
  const uint64_t limit = std::min(options.workspace_bytes, ops.preferred_round_bytes());
  const int64_t count = std::clamp<int64_t>(static_cast<int64_t>(limit / each), 1, 256);
  const uint64_t elements = static_cast<uint64_t>(side * length);
  // Directions, norms and workspace; then one fp32 matrix that all directions are cast from.
  const uint64_t norms_at = static_cast<uint64_t>(count) * each;
  const uint64_t source_at = norms_at + Aligned(static_cast<uint64_t>(count) * sizeof(double));
  auto memory = device.Allocate(source_at + elements * sizeof(float));
  if (!memory.ok()) return memory.status();
  char* const base = static_cast<char*>((*memory)->data());
  auto* const source = reinterpret_cast<float*>(base + source_at);
  Fill(stream, source, elements, noise);
  auto scalars = CreateHostSlab("calibrate", sizeof(MuonScalars));
  if (!scalars.ok()) return scalars.status();
  new ((*scalars)->data()) MuonScalars{};
  std::vector<DirectionTask> directions;
  std::vector<NewtonSchulzTask> tasks;
  for (int64_t i = 0; i < count; ++i) {
    const Matrix x{base + static_cast<uint64_t>(i) * x_bytes, side, length, length, dtype};
    auto* const norm = reinterpret_cast<double*>(base + norms_at) + i;
    directions.push_back({side,
                          length,
                          {{source, 0, 0, side, length, length, DType::kFloat32, 0}},
                          nullptr,
                          nullptr,
                          x,
                          norm,
                          static_cast<const MuonScalars*>((*scalars)->data())});
    tasks.push_back({x, norm, &table});
  }
  ops.Direction(stream, directions);
  char* const workspace = base + static_cast<uint64_t>(count) * x_bytes;
  absl::StatusOr<double> once =
      Median(stream, seconds, [&] { (void)NewtonSchulz(ops, stream, tasks, workspace); });
  if (!once.ok()) return once.status();
  const double flop =
      NewtonSchulzFlop(side, length, 5, ChooseAlgorithm(side, length, table, dtype), dtype);
  return flop * static_cast<double>(count) / *once;
}

}  // namespace

absl::StatusOr<CostModel> Calibrate(Device& device, Ops& ops, const CalibrateOptions& options,
                                    std::ostream* progress) {
  const bool gpu = device.info().kind == DeviceKind::kCuda;
  std::vector<int64_t> sides = options.sides;
  if (sides.empty()) {
    sides = gpu ? std::vector<int64_t>{128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 5120, 8192}
                : std::vector<int64_t>{16, 64, 128, 256, 512, 1024};
  }
  std::sort(sides.begin(), sides.end());
  auto stream = device.CreateStream();
  if (!stream.ok()) return stream.status();
  std::vector<float> noise(kNoiseElements);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& value : noise) value = normal(random);
  const double seconds =
      options.seconds / static_cast<double>(sides.size() + 1) / 2;  // the other half is set-up
  absl::StatusOr<double> bytes = BytesPerSecond(device, **stream, ops, seconds, noise);
  if (!bytes.ok()) return bytes.status();
  if (progress != nullptr)
    *progress << absl::StrFormat("passes: %.3e bytes/s\n", *bytes) << std::flush;
  std::vector<CostModel::Point> points;
  for (int64_t side : sides) {
    absl::StatusOr<double> rate =
        FlopPerSecond(device, **stream, ops, side, options, seconds, noise);
    if (!rate.ok()) return rate.status();
    points.push_back({side, *rate});
    if (progress != nullptr)
      *progress << absl::StrFormat("side %5d: %.3e FLOP/s\n", side, *rate) << std::flush;
  }
  return CostModel(device.info().name + " " + device.info().architecture, *bytes,
                   std::move(points));
}

}  // namespace muond
