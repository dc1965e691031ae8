#include "server/observe/tls_rows.h"

#include "server/observe/option_rows.h"

namespace muond {

std::vector<OptionRow> TlsRows(TlsOptions* tls) {
  return {
      LineOption("tls_cert", "FILE",
                 "This side's certificate (PEM), shown at TCP doors and in calls. Read again when "
                 "it is replaced.",
                 &tls->cert),
      LineOption("tls_key", "FILE", "Its private key (PEM, no passphrase).", &tls->key),
      LineOption("tls_ca", "FILE",
                 "The authorities (PEM) that the certificates of callers and of called doors must "
                 "come from.",
                 &tls->ca),
      {"tls_require_client_cert", "true|false",
       "Whether a caller at a TCP door must show a certificate of tls_ca.",
       [tls](const std::string& text) {
         const auto value = ParseBool(text);
         if (value.ok()) tls->require_client_cert = *value;
         return value.status();
       },
       [tls] { return std::string(tls->require_client_cert ? "true" : "false"); }},
      SwitchOption("plain_tcp",
                   "Allows TCP beyond loopback without TLS, where others can read and change it.",
                   &tls->plain_tcp),
  };
}

}  // namespace muond
