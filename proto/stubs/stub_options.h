// What every stub may be told.
#pragma once

#include "absl/time/time.h"
#include "proto/stubs/tls_options.h"
#include "proto/types/version.h"

namespace muond {

struct StubOptions {
  absl::Duration timeout = absl::Seconds(10);  // of a call that is given none
  bool wait_for_ready = false;  // true: a call waits for a peer that is starting, up to its timeout
  ProtocolVersion version;      // what this side says it speaks
  bool keep_alive =
      false;       // pings a silent peer each second while calls run: one that was stopped is found
  TlsOptions tls;  // of calls to a TCP endpoint
};

}  // namespace muond
