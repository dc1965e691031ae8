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

TlsOptions DefaultTls(TlsOptions given) {
  const auto fill = [](const char* name, std::string* field) {
    const char* const value = std::getenv(name);
    if (field->empty() && value != nullptr) *field = value;
  };
  fill("MUOND_TLS_CA", &given.ca);
  fill("MUOND_TLS_CERT", &given.cert);
  fill("MUOND_TLS_KEY", &given.key);
  std::string plain;
  fill("MUOND_PLAIN_TCP", &plain);
  given.plain_tcp |= plain == "1" || plain == "true";
  return given;
}

}  // namespace muond
