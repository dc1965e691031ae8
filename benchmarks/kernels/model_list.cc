#include "benchmarks/kernels/model_list.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace muond::bench {

absl::StatusOr<std::vector<ModelShape>> ReadModelList(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrFormat("no model list at %s", path));
  std::vector<ModelShape> shapes;
  std::string line;
  bool first = true;
  for (int number = 1; std::getline(file, line); ++number) {
    absl::StripAsciiWhitespace(&line);
    if (line.empty() || line[0] == '#') continue;
    std::vector<std::string> fields = absl::StrSplit(line, ',');
    for (std::string& field : fields) absl::StripAsciiWhitespace(&field);
    ModelShape shape;
    shape.count = 1;
    int64_t unused = 0;
    const size_t at =
        absl::SimpleAtoi(fields[0], &unused) ? 0 : 1;  // a line may come without a name
    const bool numbers =
        fields.size() >= at + 2 && absl::SimpleAtoi(fields[at], &shape.rows) &&
        absl::SimpleAtoi(fields[at + 1], &shape.cols) &&
        (fields.size() == at + 2 || absl::SimpleAtoi(fields[at + 2], &shape.count));
    const bool header = first && !numbers && fields.size() >= at + 2;
    first = false;
    if (header) continue;
    if (!numbers || fields.size() > at + 3 || shape.rows < 1 || shape.cols < 1 || shape.count < 1 ||
        shape.rows > (int64_t{1} << 30) || shape.cols > (int64_t{1} << 30)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s:%d: '%s' is no 'name,rows,cols,count'", path, number, line));
    }
    shape.name = at == 1 ? fields[0] : absl::StrFormat("%dx%d", shape.rows, shape.cols);
    shapes.push_back(std::move(shape));
  }
  return shapes;
}

}  // namespace muond::bench
