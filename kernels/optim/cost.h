// What a step of a matrix costs a device: exact counts from the shape, and seconds from measured rates.
// The planner balances by these. Calibration moves plans only, never the algorithm or the bits of a result.
// Units: FLOP (a multiply-add is two, symmetric products count their triangle), bytes of device memory read + written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/optim/newton_schulz.h"
#include "kernels/runtime/backend.h"
#include "kernels/runtime/dtype.h"

namespace muond {

struct StepCost {
  double flop = 0;
  double bytes = 0;
};

// One Muon matrix of rows x cols: the products of the algorithm chosen for it; gradient, momentum, direction, parameter.
StepCost MuonCost(int64_t rows, int64_t cols, const CoefficientTable& table, DType iterate,
                  DType gradient, DType parameter);

// `elements` of AdamW: gradient, both moments in and out, parameter in and out.
StepCost AdamWCost(int64_t elements, DType gradient, DType parameter);

// Rates of a device. The rate of products depends on the short side: small ones do not fill a machine.
class CostModel {
 public:
  struct Point {
    int64_t side = 0;  // min(rows, cols)
    double flop_per_second =
        0;  // of Newton-Schulz on such matrices, grouped as the daemon runs them
  };

  // Round figures for a device that nobody has measured: right enough to compare matrices of one model.
  static CostModel Nominal(DeviceKind kind);

  // A calibration as text. Lines: "muond-calibration 1" first; then, in any order, "device NAME" (free text, kept),
  // "bytes_per_second X" once, "flop_per_second SIDE X" at least once, sides distinct; "#" starts a comment.
  // INVALID_ARGUMENT names the line. At most 1 MiB and 4096 points.
  static absl::StatusOr<CostModel> Parse(std::string_view text);
  std::string ToText() const;  // what Parse reads

  // REQUIRES: points not empty, sides rising, all rates > 0.
  CostModel(std::string device, double bytes_per_second, std::vector<Point> points);

  // Linear in log(side) between points, constant outside them.
  double FlopPerSecond(int64_t side) const;
  double Seconds(const StepCost& cost,
                 int64_t side) const;  // products, then passes: they do not overlap
  const std::string& device() const { return device_; }
  double bytes_per_second() const { return bytes_per_second_; }
  const std::vector<Point>& points() const { return points_; }

 private:
  std::string device_;
  double bytes_per_second_;
  std::vector<Point> points_;
};

}  // namespace muond
