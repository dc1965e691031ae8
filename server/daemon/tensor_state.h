// TensorState: a tensor's optimizer state and parameter as whole, dense tensors, read from and written to the slots of its items.
// Threads: the StepLoop, between steps; blocks until the copy is done.   Units: bytes of the tensor's own dense layout.
// Errors: INVALID_ARGUMENT for a field that the tensor's rule does not keep, or a range beyond it, with the numbers.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/daemon/commands.h"
#include "server/daemon/job.h"

namespace muond {

class TensorState {
 public:
  // REQUIRES: job.has_slabs(), not running.
  explicit TensorState(Job& job, std::vector<DeviceRoom>& devices);

  absl::StatusOr<uint64_t> SizeBytes(int32_t tensor, StateName field) const;
  absl::StatusOr<std::string> Read(int32_t tensor, StateName field, uint64_t offset_bytes,
                                   uint64_t size_bytes_max);
  absl::Status Write(int32_t tensor, StateName field, uint64_t offset_bytes,
                     absl::string_view data);

 private:
  struct RunAt {
    uint32_t item = 0;
    size_t run = 0;
    uint64_t begin = 0, bytes = 0;  // within the tensor's field
  };
  // The runs of the tensor, in row order.
  std::vector<RunAt> RunsOf(int32_t tensor, uint64_t element_bytes) const;
  absl::Status CheckHere(int32_t tensor, StateName field) const;
  Lane& LaneOf(uint32_t item) const {
    return *devices_[std::max(0, job_.layout().items[item].device)].lane;
  }
  absl::Status Check(int32_t tensor, StateName field) const;
  uint64_t ElementBytes(int32_t tensor, StateName field) const;
  char* FieldOf(const RunAt& run, StateName field) const;
  absl::StatusOr<std::string> ReadParameter(int32_t tensor, uint64_t offset, uint64_t size);

  Job& job_;
  std::vector<DeviceRoom>& devices_;
};

}  // namespace muond
