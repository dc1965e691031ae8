#include "client/ctl/model_list.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

constexpr uintmax_t kFileBytesMax = uintmax_t{64} << 20;
constexpr std::string_view kHeader = "name,rows,cols,count";

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t' || text.back() == '\r'))
    text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> Fields(std::string_view line) {
  std::vector<std::string_view> fields;
  while (true) {
    const size_t comma = line.find(',');
    fields.push_back(Trim(line.substr(0, comma)));
    if (comma == std::string_view::npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

std::string HeaderOf(const std::vector<std::string_view>& fields) {
  std::string header;
  for (std::string_view field : fields) header += (header.empty() ? "" : ",") + std::string(field);
  return header;
}

absl::StatusOr<int64_t> Number(std::string_view text, const char* what, int64_t most) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s is '%s', allowed are whole numbers from 1 to %d", what, text.substr(0, 40), most));
  }
  return number;
}

absl::StatusOr<ModelRow> Row(const std::vector<std::string_view>& fields) {
  if (fields.size() != 4) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d fields, expected 4: %s", fields.size(), kHeader));
  }
  if (fields[0].empty() || fields[0].size() > 256) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a name of %d bytes, allowed are 1 to 256", fields[0].size()));
  }
  ModelRow row;
  row.name = std::string(fields[0]);
  for (auto [field, what, most, value] :
       {std::tuple(fields[1], "rows", kTensorElementsMax, &row.rows),
        std::tuple(fields[2], "cols", kTensorElementsMax, &row.cols),
        std::tuple(fields[3], "count", kItemsMax, &row.count)}) {
    const absl::StatusOr<int64_t> number = Number(field, what, most);
    if (!number.ok()) return number.status();
    *value = *number;
  }
  if (row.rows > kTensorElementsMax / row.cols) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a matrix of %d x %d has more than %d elements", row.rows, row.cols, kTensorElementsMax));
  }
  return row;
}

}  // namespace

absl::StatusOr<std::vector<ModelRow>> ParseModelList(std::string_view text,
                                                     std::string_view source) {
  std::vector<ModelRow> list;
  bool has_header = false;
  int64_t matrices = 0;
  const auto error = [&](int line, std::string_view why) {
    return absl::InvalidArgumentError(absl::StrFormat("%s:%d: %s", source, line, why));
  };
  int number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = Trim(text.substr(at, end - at));
    at = end + 1;
    ++number;
    if (line.empty() || line.front() == '#') continue;
    const std::vector<std::string_view> fields = Fields(line);
    if (!has_header) {
      if (HeaderOf(fields) != kHeader) {
        return error(number, absl::StrFormat("the header is '%s', expected '%s'",
                                             line.substr(0, 80), kHeader));
      }
      has_header = true;
      continue;
    }
    absl::StatusOr<ModelRow> row = Row(fields);
    if (!row.ok()) return error(number, std::string(row.status().message()));
    matrices += row->count;
    if (matrices > kItemsMax)
      return error(number, absl::StrFormat("more than %d matrices so far", kItemsMax));
    list.push_back(*std::move(row));
  }
  if (!has_header) return error(number, absl::StrFormat("no header, expected '%s'", kHeader));
  if (list.empty()) return error(number, "no matrices after the header");
  return list;
}

absl::StatusOr<std::vector<ModelRow>> ReadModelList(const std::string& path) {
  std::error_code code;
  if (std::filesystem::is_directory(path, code)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: is a directory, expected a CSV file", path));
  }
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::ErrnoToStatus(errno, absl::StrFormat("%s: cannot be read", path));
  if (const uintmax_t size = std::filesystem::file_size(path, code);
      !code && size > kFileBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes, the limit is %d", path, size, kFileBytesMax));
  }
  return ParseModelList(std::string(std::istreambuf_iterator<char>(file), {}), path);
}

Manifest ManifestOf(const std::vector<ModelRow>& list) {
  Manifest manifest;
  manifest.job = "offline";
  manifest.groups.resize(1);
  manifest.groups[0].name = "muon";
  for (const ModelRow& row : list) {
    for (int64_t i = 0; i < row.count; ++i) {
      TensorSpec& tensor = manifest.tensors.emplace_back();
      tensor.name = absl::StrFormat("%s.%d", row.name, i);
      tensor.shape = {row.rows, row.cols};
      tensor.parameter_type = tensor.gradient_type = DType::kBFloat16;
    }
  }
  return manifest;
}

}  // namespace muond
