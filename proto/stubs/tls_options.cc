#include "proto/stubs/tls_options.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <memory>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "proto/stubs/endpoint.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;

template <auto Free>
struct Freed {
  template <typename T>
  void operator()(T* value) const {
    Free(value);
  }
};
using Bytes = std::unique_ptr<BIO, Freed<BIO_free_all>>;
using Certificate = std::unique_ptr<X509, Freed<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY_free>>;

absl::StatusOr<std::string> ReadFile(const std::string& option, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return InvalidArgumentError(StrCat(option, ": ", path, " cannot be read, or is empty"));
  }
  return text.str();
}

absl::StatusOr<Certificate> ReadCertificate(const std::string& option, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(option, path);
  if (!text.ok()) return text.status();
  const Bytes bytes(BIO_new_mem_buf(text->data(), static_cast<int>(text->size())));
  Certificate certificate(PEM_read_bio_X509(bytes.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (certificate == nullptr) {
    return InvalidArgumentError(StrCat(option, ": ", path, " holds no certificate in PEM"));
  }
  return certificate;
}

absl::StatusOr<PrivateKey> ReadKey(const std::string& option, const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(option, path);
  if (!text.ok()) return text.status();
  const Bytes bytes(BIO_new_mem_buf(text->data(), static_cast<int>(text->size())));
  const auto no_passphrase = [](char*, int, int, void*) { return 0; };
  PrivateKey key(PEM_read_bio_PrivateKey(bytes.get(), nullptr, no_passphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return InvalidArgumentError(
        StrCat(option, ": ", path, " holds no private key in PEM that opens without a passphrase"));
  }
  return key;
}

absl::Time TimeOf(const ASN1_TIME* value) {
  tm parts{};
  if (value == nullptr || ASN1_TIME_to_tm(value, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string Day(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// Certificate and key of this side: there, of one another, valid now.
absl::Status CheckOwn(const std::string& prefix, const TlsOptions& tls, absl::Time now) {
  const std::string cert = prefix + "cert", key = prefix + "key";
  if (tls.cert.empty() || tls.key.empty()) {
    return InvalidArgumentError(StrCat(tls.cert.empty() ? key : cert, " is given without ",
                                       tls.cert.empty() ? cert : key, "; a side needs both"));
  }
  const absl::StatusOr<Certificate> certificate = ReadCertificate(cert, tls.cert);
  if (!certificate.ok()) return certificate.status();
  const absl::StatusOr<PrivateKey> secret = ReadKey(key, tls.key);
  if (!secret.ok()) return secret.status();
  const bool fits = X509_check_private_key(certificate->get(), secret->get()) == 1;
  ERR_clear_error();
  if (!fits) {
    return InvalidArgumentError(
        StrCat(key, ": ", tls.key, " is not the key of the certificate in ", tls.cert));
  }
  const absl::Time begin = TimeOf(X509_get0_notBefore(certificate->get()));
  const absl::Time end = TimeOf(X509_get0_notAfter(certificate->get()));
  if (now < begin || now > end) {
    return InvalidArgumentError(StrCat(cert, ": ", tls.cert, " is valid from ", Day(begin), " to ",
                                       Day(end), "; now is ", Day(now)));
  }
  return absl::OkStatus();
}

std::string Plain(const std::string& endpoint, const std::string& remedy) {
  return StrCat(endpoint,
                " is beyond this machine, and TCP there without TLS can be read and changed by "
                "others: ",
                remedy, ", or allow it with plain_tcp");
}

}  // namespace

bool IsLoopbackEndpoint(std::string_view endpoint) {
  const std::string_view host = endpoint.substr(0, endpoint.rfind(':'));
  return host == "localhost" || host == "[::1]" || host.starts_with("127.");
}

absl::Status CheckDoorTls(const std::string& endpoint, const TlsOptions& tls, absl::Time now) {
  const bool tcp = !endpoint.empty() && !IsUnixEndpoint(endpoint);
  if (tls.cert.empty() && tls.key.empty()) {
    if (tcp && !tls.ca.empty()) {
      return InvalidArgumentError(
          StrCat("tls_ca is given without tls_cert and tls_key: the door at ", endpoint,
                 " would be in plain text"));
    }
    if (tcp && !tls.plain_tcp && !IsLoopbackEndpoint(endpoint))
      return InvalidArgumentError(Plain(endpoint, "give tls_cert, tls_key and tls_ca"));
    return absl::OkStatus();
  }
  if (absl::Status status = CheckOwn("tls_", tls, now); !status.ok()) return status;
  if (!tls.ca.empty()) return ReadCertificate("tls_ca", tls.ca).status();
  if (!tls.require_client_cert || !tcp) return absl::OkStatus();
  return InvalidArgumentError(
      "tls_cert is given without tls_ca, by which callers are known; to let in whoever comes say "
      "tls_require_client_cert: false");
}

absl::Status CheckCallTls(const std::string& endpoint, const TlsOptions& tls, absl::Time now,
                          const std::string& prefix) {
  if (endpoint.empty() || IsUnixEndpoint(endpoint)) return absl::OkStatus();
  if (!tls.any()) {
    if (tls.plain_tcp || IsLoopbackEndpoint(endpoint)) return absl::OkStatus();
    return InvalidArgumentError(Plain(endpoint, StrCat("give ", prefix, "ca")));
  }
  if (tls.ca.empty()) {
    return InvalidArgumentError(
        StrCat(prefix, "ca is missing: ", endpoint, " could be anybody without it"));
  }
  if (absl::Status status = ReadCertificate(prefix + "ca", tls.ca).status(); !status.ok())
    return status;
  return tls.cert.empty() && tls.key.empty() ? absl::OkStatus() : CheckOwn(prefix, tls, now);
}

absl::StatusOr<absl::Time> CertificateEnd(const std::string& path) {
  const absl::StatusOr<Certificate> certificate = ReadCertificate("certificate", path);
  if (!certificate.ok()) return certificate.status();
  return TimeOf(X509_get0_notAfter(certificate->get()));
}

}  // namespace muond
