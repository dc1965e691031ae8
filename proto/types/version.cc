#include "proto/types/version.h"

#include "absl/strings/str_format.h"

namespace muond {

absl::Status CheckVersion(const ProtocolVersion& theirs, std::string_view peer,
                          const ProtocolVersion& mine) {
  if (theirs.major_number == mine.major_number) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("%s speaks protocol %d.%d (build '%s'), this side %d.%d (build '%s'): the "
                      "major versions must be equal",
                      peer, theirs.major_number, theirs.minor_number, theirs.build.substr(0, 64),
                      mine.major_number, mine.minor_number, mine.build));
}

}  // namespace muond
