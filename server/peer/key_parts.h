// KeyParts: the key of a registered region as the parts that fit frames, eight bytes each, and together again.
// Threads: plain values.   Errors: parts that do not fit what came before start over.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace muond {

inline constexpr uint32_t kKeyPartBytes = 8;

uint32_t KeyPartCount(std::string_view key);
uint64_t KeyPart(std::string_view key, uint32_t part);

class KeyParts {
 public:
  // `size_bytes` of the whole key, as every part says. True when the key is whole.
  bool Add(uint32_t size_bytes, uint32_t part, uint64_t value);
  const std::string& key() const { return key_; }
  void Clear();

 private:
  std::string key_;
  std::vector<bool> have_;
  uint32_t missing_ = 0;
};

}  // namespace muond
