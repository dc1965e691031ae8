// Where the daemon is when nobody says.
#pragma once

#include <string>

#include "proto/stubs/tls_options.h"

namespace muond {

// MUOND_ENDPOINT, else the socket of the user's own daemon: $XDG_RUNTIME_DIR/muond/grpc.sock, or /tmp/muond-UID/grpc.sock.
std::string DefaultEndpoint();

// `given`, its empty fields filled from MUOND_TLS_CA, MUOND_TLS_CERT, MUOND_TLS_KEY; MUOND_PLAIN_TCP=1 or true allows plain TCP.
TlsOptions DefaultTls(TlsOptions given);

}  // namespace muond
