#include "tests/support/certificates.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace muond::testing {
namespace {

int64_t NextSerial() {
  static std::atomic<int64_t> next{1000};
  return ++next;
}

X509* NewCertificate(const std::string& name, EVP_PKEY* key, int64_t serial, int64_t begin_seconds,
                     int64_t end_seconds) {
  X509* const cert = X509_new();
  X509_set_version(cert, 2);
  ASN1_INTEGER_set_int64(X509_get_serialNumber(cert), serial);
  X509_gmtime_adj(X509_getm_notBefore(cert), begin_seconds);
  X509_gmtime_adj(X509_getm_notAfter(cert), end_seconds);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(cert, key);
  return cert;
}

void Extend(X509* cert, int kind, const char* value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value);
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(cert, extension, -1);
  X509_EXTENSION_free(extension);
}

// Written beside and renamed, so that a reader sees the old file or the new.
template <typename Write>
void Replace(const std::string& path, Write write) {
  const std::string beside = path + ".new";
  FILE* const file = std::fopen(beside.c_str(), "w");
  ASSERT_NE(file, nullptr) << beside;
  EXPECT_EQ(write(file), 1) << path;
  std::fclose(file);
  EXPECT_EQ(std::rename(beside.c_str(), path.c_str()), 0) << path;
}

}  // namespace

Authority::Authority(const std::string& folder, const std::string& name)
    : folder_(folder),
      name_(name),
      ca_(folder + "/" + name + ".ca.pem"),
      key_(EVP_EC_gen("P-256")),
      cert_(NewCertificate(name, key_, NextSerial(), -86400, 86400)) {
  Extend(cert_, NID_basic_constraints, "critical,CA:TRUE");
  Extend(cert_, NID_key_usage, "critical,keyCertSign,cRLSign");
  X509_set_issuer_name(cert_, X509_get_subject_name(cert_));
  X509_sign(cert_, key_, EVP_sha256());
  Replace(ca_, [this](FILE* file) { return PEM_write_X509(file, cert_); });
}

Authority::~Authority() {
  X509_free(cert_);
  EVP_PKEY_free(key_);
}

Issued Authority::Issue(const std::string& name, int64_t begin_seconds, int64_t end_seconds) {
  Issued issued{folder_ + "/" + name + ".pem", folder_ + "/" + name + ".key", NextSerial()};
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const cert = NewCertificate(name, key, issued.serial, begin_seconds, end_seconds);
  Extend(cert, NID_subject_alt_name, "IP:127.0.0.1,DNS:localhost");
  X509_set_issuer_name(cert, X509_get_subject_name(cert_));
  X509_sign(cert, key_, EVP_sha256());
  Replace(issued.key, [key](FILE* file) {
    return PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  Replace(issued.cert, [cert](FILE* file) { return PEM_write_X509(file, cert); });
  X509_free(cert);
  EVP_PKEY_free(key);
  return issued;
}

TlsOptions Authority::Side(const std::string& name) {
  const Issued issued = Issue(name);
  TlsOptions tls;
  tls.cert = issued.cert;
  tls.key = issued.key;
  tls.ca = ca_;
  return tls;
}

std::vector<std::string> TlsFlags(const TlsOptions& tls) {
  std::vector<std::string> flags;
  if (!tls.cert.empty()) flags.push_back("--tls-cert=" + tls.cert);
  if (!tls.key.empty()) flags.push_back("--tls-key=" + tls.key);
  if (!tls.ca.empty()) flags.push_back("--tls-ca=" + tls.ca);
  return flags;
}

Seen ShakeHands(const std::string& host_and_port, const TlsOptions& mine) {
  Seen seen;
  const size_t colon = host_and_port.rfind(':');
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(host_and_port.substr(colon + 1))));
  inet_pton(AF_INET, host_and_port.substr(0, colon).c_str(), &address.sin_addr);
  const int line = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval patience{20, 0};
  ::setsockopt(line, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
  if (!mine.cert.empty()) {
    EXPECT_EQ(SSL_CTX_use_certificate_chain_file(context, mine.cert.c_str()), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey_file(context, mine.key.c_str(), SSL_FILETYPE_PEM), 1);
  }
  SSL* const tls = SSL_new(context);
  SSL_set_alpn_protos(tls, reinterpret_cast<const unsigned char*>("\x02h2"), 3);
  if (::connect(line, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 &&
      SSL_set_fd(tls, line) == 1 && SSL_connect(tls) == 1) {
    if (X509* const theirs = SSL_get1_peer_certificate(tls); theirs != nullptr) {
      ASN1_INTEGER_get_int64(&seen.serial, X509_get0_serialNumber(theirs));
      X509_free(theirs);
    }
    // In TLS 1.3 a caller hears only now whether its certificate was good: an HTTP/2 door greets first.
    unsigned char byte = 0;
    seen.let_in = SSL_read(tls, &byte, 1) == 1;
  }
  SSL_free(tls);
  SSL_CTX_free(context);
  ::close(line);
  return seen;
}

}  // namespace muond::testing
