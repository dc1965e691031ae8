#include <muond.h>

#include <cstring>

int main() {
  auto options = MUOND_INIT(muond_attach_options);
  options.echo = 1;
  muond_client* client = nullptr;
  // Without a manifest: refused, with a text.
  const bool refused = muond_client_attach(&options, nullptr, &client) == MUOND_INVALID_ARGUMENT;
  return refused && std::strstr(muond_last_message(), "manifest") != nullptr ? 0 : 1;
}
