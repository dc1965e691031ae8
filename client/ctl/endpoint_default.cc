#include "client/ctl/endpoint_default.h"

#include <unistd.h>

#include <cstdlib>

namespace muond {

std::string DefaultEndpoint() {
  const char* const chosen = std::getenv("MUOND_ENDPOINT");
  if (chosen != nullptr && *chosen != '\0') return chosen;
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0')
    return std::string("unix:") + runtime + "/muond/grpc.sock";
  return "unix:/tmp/muond-" + std::to_string(geteuid()) + "/grpc.sock";
}

}  // namespace muond
