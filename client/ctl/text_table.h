// Tables and bars for people: columns padded to their widest cell, numbers to the right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace muond {

class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header) : rows_{std::move(header)} {}
  void Add(std::vector<std::string> row) {
    rows_.push_back(std::move(row));
  }                            // as many cells as the header
  std::string ToText() const;  // lines end with a newline; no trailing blanks

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string Bar(double share, size_t columns);  // `share` of `columns`, filled; 0 to 1, clamped
std::string BytesText(uint64_t bytes);          // "1.5 GiB"

}  // namespace muond
