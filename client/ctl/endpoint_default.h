// Where the daemon is when nobody says.
#pragma once

#include <string>

namespace muond {

// MUOND_ENDPOINT, else the socket of the user's own daemon: $XDG_RUNTIME_DIR/muond/grpc.sock, or /tmp/muond-UID/grpc.sock.
std::string DefaultEndpoint();

}  // namespace muond
