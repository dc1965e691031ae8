#include "kernels/optim/cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace muond {
namespace {

constexpr char kHeader[] = "muond-calibration 1";
constexpr size_t kTextMax = 1 << 20;
constexpr size_t kPointsMax = 4096;

absl::Status BadLine(int number, const std::string& line, const char* why) {
  return absl::InvalidArgumentError(
      absl::StrFormat("calibration line %d, '%s': %s", number, line.substr(0, 80), why));
}

bool ParseRate(const std::string& text, double* value) {
  return absl::SimpleAtod(text, value) && std::isfinite(*value) && *value > 0;
}

}  // namespace

StepCost MuonCost(int64_t rows, int64_t cols, const CoefficientTable& table, DType iterate,
                  DType gradient, DType parameter) {
  const double elements = static_cast<double>(rows) * static_cast<double>(cols);
  const auto algorithm = ChooseAlgorithm(rows, cols, table, iterate);
  StepCost cost;
  cost.flop = NewtonSchulzFlop(rows, cols, table, algorithm, iterate);
  const double direction = static_cast<double>(SizeOf(gradient) + 4 + 4 + SizeOf(iterate));
  const double apply = static_cast<double>(SizeOf(iterate) + 2 * SizeOf(parameter));
  cost.bytes = elements * (direction + apply);
  return cost;
}

StepCost AdamWCost(int64_t elements, DType gradient, DType parameter) {
  StepCost cost;
  cost.flop = 14.0 * static_cast<double>(elements);
  cost.bytes = static_cast<double>(elements) *
               static_cast<double>(SizeOf(gradient) + 16 + 2 * SizeOf(parameter));
  return cost;
}

// H200: 650e12 sustained in fp16 above 2048, a quarter of it at 512, 4e12 bytes. CPU core with AVX2: 80e9, 15e9 bytes.
CostModel CostModel::Nominal(DeviceKind kind) {
  if (kind == DeviceKind::kCuda) {
    return CostModel("nominal GPU", 4e12,
                     {{128, 2e13}, {512, 1.6e14}, {1024, 4e14}, {2048, 6e14}, {4096, 6.5e14}});
  }
  return CostModel("nominal CPU core", 1.5e10, {{16, 1e10}, {64, 4e10}, {256, 7e10}, {1024, 8e10}});
}

CostModel::CostModel(std::string device, double bytes_per_second, std::vector<Point> points)
    : device_(std::move(device)), bytes_per_second_(bytes_per_second), points_(std::move(points)) {}

absl::StatusOr<CostModel> CostModel::Parse(std::string_view text) {
  if (text.size() > kTextMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a calibration of %d bytes, at most %d", text.size(), kTextMax));
  }
  std::string device;
  double bytes_per_second = 0;
  std::vector<Point> points;
  int number = 0;
  for (const std::string& raw : std::vector<std::string>(absl::StrSplit(std::string(text), '\n'))) {
    ++number;
    const std::vector<std::string> halves = absl::StrSplit(raw, absl::MaxSplits('#', 1));
    std::string line(absl::StripAsciiWhitespace(halves[0]));
    if (number == 1) {
      if (line != kHeader) return BadLine(number, line, "the first line is 'muond-calibration 1'");
      continue;
    }
    if (line.empty()) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words[0] == "device") {
      device = std::string(absl::StripAsciiWhitespace(line.substr(words[0].size())));
    } else if (words[0] == "bytes_per_second") {
      if (bytes_per_second != 0) return BadLine(number, line, "a second bytes_per_second");
      if (words.size() != 2 || !ParseRate(words[1], &bytes_per_second))
        return BadLine(number, line, "wants one number > 0");
    } else if (words[0] == "flop_per_second") {
      Point point;
      if (words.size() != 3 || !absl::SimpleAtoi(words[1], &point.side) || point.side < 1 ||
          !ParseRate(words[2], &point.flop_per_second)) {
        return BadLine(number, line, "wants a side >= 1 and a number > 0");
      }
      if (points.size() == kPointsMax) return BadLine(number, line, "more than 4096 points");
      points.push_back(point);
    } else {
      return BadLine(number, line, "unknown key");
    }
  }
  if (bytes_per_second == 0)
    return absl::InvalidArgumentError("a calibration without bytes_per_second");
  if (points.empty()) return absl::InvalidArgumentError("a calibration without flop_per_second");
  std::sort(points.begin(), points.end(),
            [](const Point& a, const Point& b) { return a.side < b.side; });
  for (size_t i = 1; i < points.size(); ++i) {
    if (points[i].side == points[i - 1].side) {
      return absl::InvalidArgumentError(
          absl::StrFormat("a calibration with side %d twice", points[i].side));
    }
  }
  return CostModel(device, bytes_per_second, std::move(points));
}

std::string CostModel::ToText() const {
  std::string text = absl::StrFormat("%s\ndevice %s\nbytes_per_second %.17g\n", kHeader, device_,
                                     bytes_per_second_);
  for (const Point& point : points_) {
    absl::StrAppendFormat(&text, "flop_per_second %d %.17g\n", point.side, point.flop_per_second);
  }
  return text;
}

double CostModel::FlopPerSecond(int64_t side) const {
  if (side <= points_.front().side) return points_.front().flop_per_second;
  if (side >= points_.back().side) return points_.back().flop_per_second;
  const auto above =
      std::upper_bound(points_.begin(), points_.end(), side,
                       [](int64_t value, const Point& point) { return value < point.side; });
  const Point& low = *std::prev(above);
  const double whole = std::log(static_cast<double>(above->side) / static_cast<double>(low.side));
  const double part = std::log(static_cast<double>(side) / static_cast<double>(low.side));
  return low.flop_per_second + (above->flop_per_second - low.flop_per_second) * part / whole;
}

double CostModel::Seconds(const StepCost& cost, int64_t side) const {
  return cost.flop / FlopPerSecond(side) + cost.bytes / bytes_per_second_;
}

}  // namespace muond
