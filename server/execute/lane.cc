#include "server/execute/lane.h"

#include <utility>

namespace muond {

absl::StatusOr<std::unique_ptr<Lane>> Lane::Create(Device& device, std::unique_ptr<Ops> ops) {
  auto stream = device.CreateStream();
  if (!stream.ok()) return stream.status();
  return std::unique_ptr<Lane>(new Lane(device, std::move(ops), *std::move(stream)));
}

absl::Status Lane::Reserve(uint64_t bytes) {
  if (bytes <= workspace_bytes()) return absl::OkStatus();
  auto larger = device_.Allocate(bytes);
  if (!larger.ok()) return larger.status();
  if (absl::Status status = stream_->Synchronize(); !status.ok()) return status;
  workspace_ = *std::move(larger);
  return absl::OkStatus();
}

}  // namespace muond
