#include "server/peer/key_parts.h"

#include <algorithm>
#include <cstring>

namespace muond {

namespace {
constexpr uint32_t kKeyBytesMax = 1024;  // as kRegionKeyBytesMax of proto/carrier
}

uint32_t KeyPartCount(std::string_view key) {
  return static_cast<uint32_t>((key.size() + kKeyPartBytes - 1) / kKeyPartBytes);
}

uint64_t KeyPart(std::string_view key, uint32_t part) {
  uint64_t value = 0;
  const std::string_view bytes = key.substr(size_t{part} * kKeyPartBytes, kKeyPartBytes);
  std::memcpy(&value, bytes.data(), bytes.size());
  return value;
}

void KeyParts::Clear() {
  key_.clear();
  have_.clear();
  missing_ = 0;
}

bool KeyParts::Add(uint32_t size_bytes, uint32_t part, uint64_t value) {
  if (size_bytes == 0 || size_bytes > kKeyBytesMax) return false;
  if (key_.size() != size_bytes) {
    key_.assign(size_bytes, '\0');
    missing_ = KeyPartCount(key_);
    have_.assign(missing_, false);
  }
  if (part >= have_.size()) return false;
  const size_t at = size_t{part} * kKeyPartBytes;
  std::memcpy(key_.data() + at, &value, std::min<size_t>(kKeyPartBytes, size_bytes - at));
  if (!have_[part]) --missing_;
  have_[part] = true;
  return missing_ == 0;
}

}  // namespace muond
