// The options of TLS, the same of every program with a TCP door: tls_cert, tls_key, tls_ca, tls_require_client_cert,
// plain_tcp. What they need of one another is CheckDoorTls's and CheckCallTls's (proto/stubs/tls_options.h).
#pragma once

#include <vector>

#include "proto/stubs/tls_options.h"
#include "server/observe/option_table.h"

namespace muond {

// `tls` is borrowed for the table's life.
std::vector<OptionRow> TlsRows(TlsOptions* tls);

}  // namespace muond
