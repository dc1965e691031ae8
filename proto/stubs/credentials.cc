#include "proto/stubs/credentials.h"

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include "proto/stubs/endpoint.h"

namespace muond {
namespace {

constexpr unsigned kLookAgainSeconds = 1;  // the least that gRPC allows

std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider> Watch(const TlsOptions& tls) {
  return std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      tls.key, tls.cert, tls.ca, kLookAgainSeconds);
}

}  // namespace

std::shared_ptr<grpc::ServerCredentials> DoorCredentials(std::string_view endpoint,
                                                         const TlsOptions& tls) {
  if (IsUnixEndpoint(endpoint) || tls.cert.empty()) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(Watch(tls));
  options.watch_identity_key_cert_pairs();
  if (!tls.ca.empty()) options.watch_root_certs();
  options.set_cert_request_type(tls.ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                : tls.require_client_cert
                                    ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                    : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> CallCredentials(std::string_view endpoint,
                                                          const TlsOptions& tls) {
  if (IsUnixEndpoint(endpoint) || tls.ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(Watch(tls));
  options.watch_root_certs();
  if (!tls.cert.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);  // checks the door's name
}

}  // namespace muond
