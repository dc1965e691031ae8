// The coefficient tables, each as its publisher gives it. A configuration names a table: several different ones
// go by "polar express".
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/optim/newton_schulz.h"

namespace muond {
namespace {

constexpr int kStepsMax = 99;  // torch.optim.Muon refuses 100

using Rows = std::vector<Coefficients>;

const Coefficients kJordan{3.4445, -4.7750, 2.0315};

const Rows& PolarExpressRaw() {
  static const Rows& rows = *new Rows{
      {8.28721201814563, -23.595886519098837, 17.300387312530933},
      {4.107059111542203, -2.9478499167379106, 0.5448431082926601},
      {3.9486908534822946, -2.908902115962949, 0.5518191394370137},
      {3.3184196573706015, -2.488488024314874, 0.51004894012372},
      {2.300652019954817, -1.6689039845747493, 0.4188073119525673},
  };
  return rows;
}

// p(x / by) as a polynomial in x.
Coefficients WithInputDividedBy(double by, const Coefficients& row) {
  return {row.a / by, row.b / std::pow(by, 3), row.c / std::pow(by, 5)};
}

Rows PolarExpress105() {
  Rows rows;
  for (const Coefficients& row : PolarExpressRaw()) rows.push_back(WithInputDividedBy(1.05, row));
  return rows;
}

// Made for inputs divided by 1.02 ||X||.
Rows PolarExpress102() {
  Rows rows{
      {8.156554524902461, -22.48329292557795, 15.878769915207462},
      {4.042929935166739, -2.808917465908714, 0.5000178451051316},
      {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
      {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
      {2.3465413258596377, -1.7097828382687081, 0.42323551169305323},
  };
  rows[0] = WithInputDividedBy(1.02, rows[0]);
  return rows;
}

Rows DeepSeekV4() {
  Rows rows(8, kJordan);
  rows.push_back({2, -1.5, 0.5});
  rows.push_back({2, -1.5, 0.5});
  return rows;
}

const std::vector<std::pair<std::string, Rows>>& Tables() {
  static const auto& tables = *new std::vector<std::pair<std::string, Rows>>{
      {"jordan", Rows(5, kJordan)},
      {"you5",
       {{4.0848, -6.8946, 2.9270},
        {3.9505, -6.3029, 2.6377},
        {3.7418, -5.5913, 2.3037},
        {2.8769, -3.1427, 1.2046},
        {2.8366, -3.0525, 1.2012}}},
      {"polar_express_101",
       {{8.2051, -22.9019, 16.4607},
        {4.0664, -2.8612, 0.5184},
        {3.9096, -2.8234, 0.5250},
        {3.2856, -2.4153, 0.4853},
        {2.2779, -1.6198, 0.3985},
        {1.8726, -1.2307, 0.3585},
        {1.8564, -1.2132, 0.3568},
        {1.8750, -1.2500, 0.3750}}},
      {"polar_express_102", PolarExpress102()},
      {"polar_express_105", PolarExpress105()},
      {"cans",
       {{8.4703, -25.1081, 18.6293},
        {4.1828, -3.1087, 0.5806},
        {3.9619, -2.9541, 0.5630},
        {3.2866, -2.4647, 0.5074},
        {2.2737, -1.6447, 0.4162}}},
      {"deepseek_v4", DeepSeekV4()},
  };
  return tables;
}

absl::StatusOr<CoefficientTable> Cut(std::string name, const Rows& rows, int steps) {
  if (steps > kStepsMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d Newton-Schulz steps of table '%s' asked for, at most %d are allowed",
                        steps, name, kStepsMax));
  }
  CoefficientTable table{std::move(name), rows};
  if (steps > 0) table.steps.resize(static_cast<size_t>(steps), rows.back());
  return table;
}

}  // namespace

absl::StatusOr<CoefficientTable> FindCoefficientTable(std::string_view name, int steps) {
  for (const auto& [known, rows] : Tables()) {
    if (known == name) return Cut(known, rows, steps);
  }
  return absl::NotFoundError(
      absl::StrCat("no coefficient table is named '", std::string(name), "': there are ",
                   absl::StrJoin(Tables(), ", ", [](std::string* out, const auto& table) {
                     absl::StrAppend(out, table.first);
                   })));
}

absl::StatusOr<CoefficientTable> CustomCoefficientTable(absl::Span<const Coefficients> rows,
                                                        int steps) {
  if (rows.empty()) return absl::InvalidArgumentError("a custom coefficient table has no rows");
  for (size_t i = 0; i < rows.size(); ++i) {
    if (std::isfinite(rows[i].a) && std::isfinite(rows[i].b) && std::isfinite(rows[i].c)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("row %d of a custom coefficient table is (%g, %g, %g)", i, rows[i].a,
                        rows[i].b, rows[i].c));
  }
  if (rows.size() > kStepsMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a custom coefficient table has %d rows, at most %d are allowed", rows.size(), kStepsMax));
  }
  return Cut("custom", Rows(rows.begin(), rows.end()), steps);
}

}  // namespace muond
