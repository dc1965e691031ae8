// TlsOptions: the certificate files of one side, for its TCP doors and for its calls to TCP endpoints. Unix sockets never
// use them. The files are PEM and may be replaced while they are in use: they are read again every second.
// Threads: plain values; the functions read files and nothing else.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace muond {

struct TlsOptions {
  std::string cert;  // this side's certificate, then those that lead to its authority
  std::string key;   // its private key, without a passphrase
  std::string ca;    // the authorities that a peer's certificate must come from
  bool require_client_cert = true;  // doors: a caller without a certificate of `ca` is turned away
  bool plain_tcp = false;           // TCP beyond loopback without TLS is allowed

  bool any() const { return !cert.empty() || !key.empty() || !ca.empty(); }
};

// 127.x.y.z, [::1] or localhost; the part of a TCP endpoint before its last colon.
bool IsLoopbackEndpoint(std::string_view endpoint);

// What a door at `endpoint` needs. INVALID_ARGUMENT, naming the option as it is written in a file ("tls_key"): a half-given
// set, a file that cannot be read or parsed, a key that is of another certificate, a certificate that has ended or not begun,
// TCP beyond loopback without TLS.
absl::Status CheckDoorTls(const std::string& endpoint, const TlsOptions& tls, absl::Time now);
// The same for calls to `endpoint`: only `ca` is needed, `cert` and `key` where the door asks for them. `prefix` stands before
// the options' names in the text: "store_tls_".
absl::Status CheckCallTls(const std::string& endpoint, const TlsOptions& tls, absl::Time now,
                          const std::string& prefix = "tls_");

// When the certificate in `path` ends. INVALID_ARGUMENT when there is none.
absl::StatusOr<absl::Time> CertificateEnd(const std::string& path);

}  // namespace muond
