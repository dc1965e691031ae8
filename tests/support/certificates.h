// Certificates made while a test runs (P-256, libcrypto), and a bare TLS handshake that tells what a door shows and whether it
// lets the caller in. REQUIRES for all: the folder exists.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <string>
#include <vector>

#include "proto/stubs/tls_options.h"

namespace muond::testing {

struct Issued {
  std::string cert, key;
  int64_t serial = 0;
};

class Authority {
 public:
  // Writes FOLDER/NAME.ca.pem.
  Authority(const std::string& folder, const std::string& name);
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  const std::string& ca() const { return ca_; }
  // Writes FOLDER/NAME.pem and FOLDER/NAME.key, each by a rename: for 127.0.0.1 and localhost, valid from `begin_seconds` to
  // `end_seconds` from now.
  Issued Issue(const std::string& name, int64_t begin_seconds = -60, int64_t end_seconds = 3600);
  // What a side with such a certificate is given.
  TlsOptions Side(const std::string& name);

 private:
  const std::string folder_, name_;
  std::string ca_;
  EVP_PKEY* key_;
  X509* cert_;
};

// As flags: --tls-cert=... --tls-key=... --tls-ca=...; those that are not empty.
std::vector<std::string> TlsFlags(const TlsOptions& tls);

struct Seen {
  bool let_in = false;  // the door has spoken after the handshake
  int64_t serial = 0;   // of the certificate that it showed; 0: none
};
Seen ShakeHands(const std::string& host_and_port, const TlsOptions& mine);

}  // namespace muond::testing
