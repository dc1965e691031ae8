#include "proto/carrier/put_window.h"

#include "absl/strings/str_cat.h"

namespace muond {

absl::Status CheckPut(const PutRequest& put, uint64_t region_bytes) {
  if (put.data == nullptr || put.size_bytes == 0) {
    return absl::InvalidArgumentError(absl::StrCat("a put of ", put.size_bytes, " bytes from ",
                                                   put.data == nullptr ? "nowhere" : "memory"));
  }
  if (put.offset > region_bytes || put.size_bytes > region_bytes - put.offset) {
    return absl::OutOfRangeError(absl::StrCat("a put of ", put.size_bytes, " bytes at offset ",
                                              put.offset, ", the region has ", region_bytes));
  }
  return absl::OkStatus();
}

absl::Status PutWindow::Add(const PutRequest& put) {
  if (waiting_.size() >= limits_.puts_queued_max) {
    return absl::ResourceExhaustedError(absl::StrCat(
        waiting_.size(), " puts wait behind ", puts_in_flight_, " in flight (", bytes_in_flight_,
        " bytes); the most that may wait is ", limits_.puts_queued_max));
  }
  waiting_.push_back(put);
  return absl::OkStatus();
}

std::optional<PutRequest> PutWindow::Next() {
  if (waiting_.empty() || puts_in_flight_ >= limits_.puts_in_flight_max) return std::nullopt;
  const PutRequest& next = waiting_.front();
  const bool fits = bytes_in_flight_ <= limits_.bytes_in_flight_max &&
                    next.size_bytes <= limits_.bytes_in_flight_max - bytes_in_flight_;
  if (!fits && puts_in_flight_ > 0) return std::nullopt;
  ++puts_in_flight_;
  bytes_in_flight_ += next.size_bytes;
  return TakeWaiting();
}

void PutWindow::Ended(uint64_t size_bytes) {
  --puts_in_flight_;
  bytes_in_flight_ -= size_bytes;
}

std::optional<PutRequest> PutWindow::TakeWaiting() {
  if (waiting_.empty()) return std::nullopt;
  const PutRequest put = waiting_.front();
  waiting_.pop_front();
  return put;
}

}  // namespace muond
