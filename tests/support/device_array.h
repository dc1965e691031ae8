// Host arrays on a device and back, so that one test speaks to every backend.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/runtime/backend.h"

namespace muond::testing {

// `count` elements of T in a buffer of its own. Upload and Download wait for the stream.
template <typename T>
class DeviceArray {
 public:
  DeviceArray(Device& device, size_t count)
      : count_(count), buffer_(device.Allocate(count * sizeof(T)).value()) {}
  DeviceArray(Device& device, Stream& stream, const std::vector<T>& values)
      : DeviceArray(device, values.size()) {
    Upload(stream, values);
  }
  T* data() const { return static_cast<T*>(buffer_->data()); }
  size_t size() const { return count_; }
  void Upload(Stream& stream, const std::vector<T>& values) {
    stream.Copy(buffer_->data(), values.data(), values.size() * sizeof(T));
    EXPECT_TRUE(stream.Synchronize().ok());
  }
  std::vector<T> Download(Stream& stream) const {
    std::vector<T> values(count_);
    stream.Copy(values.data(), buffer_->data(), count_ * sizeof(T));
    EXPECT_TRUE(stream.Synchronize().ok());
    return values;
  }

 private:
  size_t count_;
  std::unique_ptr<Buffer> buffer_;
};

// A T in a host page that host and device both read: scalars, measurements, cells.
template <typename T>
class SharedValue {
 public:
  SharedValue() : slab_(CreateHostSlab("shared-value", sizeof(T)).value()) {
    new (slab_->data()) T{};
  }
  T* get() const { return static_cast<T*>(slab_->data()); }
  T& operator*() const { return *get(); }
  T* operator->() const { return get(); }

 private:
  std::unique_ptr<Slab> slab_;
};

// Whether two arrays hold the same bits (NaN equals itself, 0 differs from -0).
template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

}  // namespace muond::testing
