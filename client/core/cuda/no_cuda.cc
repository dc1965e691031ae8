// OpenClientDevice where CUDA was not compiled in.
#include "absl/strings/str_cat.h"
#include "client/core/device.h"

namespace muond {

absl::StatusOr<std::shared_ptr<ClientDevice>> OpenClientDevice(const std::string& uuid) {
  return absl::UnavailableError(absl::StrCat(
      "parameters lie on ", uuid, ", but this build of the client has no CUDA (preset cuda)"));
}

}  // namespace muond
