#include "server/coordinator/settings.h"

#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/stubs/endpoint.h"
#include "server/observe/option_rows.h"
#include "server/observe/tls_rows.h"

namespace muond {
namespace {

constexpr int64_t kLeaderSecondsMin = 2, kLeaderSecondsMax = 60;
constexpr int64_t kLeaseMsMin = 100, kLeaseMsMax = 3'600'000;

constexpr const char* kUsage =
    "muond-coordinator: which daemons are there, which jobs run, and who owns what.\n\n"
    "usage: muond-coordinator [--config FILE] [flags]\n\n"
    "Each option below can be given as a flag, as a key of the YAML file (with _ for -) or in the "
    "environment "
    "(MUOND_COORDINATOR_NAME).\nFlags win over the environment, the environment over the file; "
    "unknown names are errors.\n\n"
    "  --config FILE       read options from this YAML file (MUOND_COORDINATOR_CONFIG)\n"
    "  --check-config      say whether the configuration is valid, and end\n"
    "  --print-config      print every option, its value and where it comes from, and end\n"
    "  --version           print the version, and end\n"
    "  --help              print this, and end\n\n";
constexpr const char* kExitCodes =
    "\nexit codes: 0 ended in order (SIGTERM, SIGINT); 1 cannot start; 2 wrong configuration.\n";

absl::Status CheckListen(const std::string& text) { return CanonicalEndpoint(text).status(); }

absl::Status CheckStore(const std::string& text) {
  if (text.empty()) return absl::OkStatus();
  const auto folder = std::filesystem::absolute(text).parent_path();
  if (::access(folder.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("its folder is missing or cannot be written");
}

OptionRow LeaseOption(absl::Duration* lease) {
  return {"lease_ms", "MILLISECONDS", "A daemon that is silent for longer is gone.",
          [lease](const std::string& text) {
            const auto value = ParseInteger(text, kLeaseMsMin, kLeaseMsMax);
            if (value.ok()) *lease = absl::Milliseconds(*value);
            return value.status();
          },
          [lease] { return absl::StrCat(absl::ToInt64Milliseconds(*lease)); }};
}

absl::Status CheckPrefix(const std::string& text) {
  return text.size() > 1 && text.front() == '/' && text.back() == '/'
             ? absl::OkStatus()
             : absl::InvalidArgumentError("a slash is expected at its start and at its end");
}

absl::Status CheckEtcd(const Settings& s, absl::Time now) {
  if (s.etcd.empty()) {
    if (!s.etcd_tls.any()) return absl::OkStatus();
    return absl::InvalidArgumentError("etcd_tls_* is given, but etcd, whose they are, is not");
  }
  if (!s.store.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("store (", s.store, ") and etcd (", s.etcd, ") exclude each other"));
  }
  const absl::StatusOr<std::vector<std::string>> endpoints = SplitEndpoints(s.etcd);
  if (!endpoints.ok()) return endpoints.status();
  for (const std::string& endpoint : *endpoints) {
    TlsOptions tls = s.etcd_tls;
    tls.plain_tcp = s.tls.plain_tcp;
    if (auto status = CheckCallTls(endpoint, tls, now, "etcd_tls_"); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::vector<OptionRow> Rows(Settings* s) {
  std::vector<OptionRow> rows = {
      LineOption("listen", "ENDPOINT", "unix:/path, or host:port; beyond loopback with TLS.",
                 &s->listen, CheckListen),
      LineOption("metrics_listen", "HOST:PORT",
                 "Where /metrics, /healthz and /readyz are, in plain HTTP. off: nowhere.",
                 &s->metrics_listen,
                 [](const std::string& text) {
                   return text == "off" ? absl::OkStatus() : HostOf(text).status();
                 }),
      LineOption("store", "FILE", "SQLite file that outlives this process. Without it: in memory.",
                 &s->store, CheckStore),
      LineOption("etcd", "HOST:PORT,...",
                 "The store instead, shared with other coordinators: one leads, the others stand "
                 "by. Its members, with commas between.",
                 &s->etcd),
      LineOption("etcd_prefix", "PREFIX",
                 "What the keys there start with, the same for all who share one cluster.",
                 &s->etcd_prefix, CheckPrefix),
      LineOption("etcd_tls_ca", "FILE", "The authorities that etcd's certificates come from.",
                 &s->etcd_tls.ca),
      LineOption("etcd_tls_cert", "FILE", "The certificate to show etcd.", &s->etcd_tls.cert),
      LineOption("etcd_tls_key", "FILE", "Its private key.", &s->etcd_tls.key),
      LineOption("advertise", "ENDPOINT",
                 "This coordinator as others reach it; without it: where it listens.",
                 &s->advertise,
                 [](const std::string& text) {
                   return text.empty() ? absl::OkStatus() : CheckListen(text);
                 }),
      {"leader_ttl_s", "SECONDS", "With etcd: after how long a silent leader is replaced.",
       [s](const std::string& text) {
         const auto value = ParseInteger(text, kLeaderSecondsMin, kLeaderSecondsMax);
         if (value.ok()) s->leader_ttl = absl::Seconds(*value);
         return value.status();
       },
       [s] { return absl::StrCat(absl::ToInt64Seconds(s->leader_ttl)); }},
      LeaseOption(&s->lease),
      SecondsOption("orphan_lease_s", "How long a job whose daemon is gone stays for its return.",
                    &s->orphan_lease),
      LogLevelOption(&s->log_level),
      LogFormatOption(&s->log_format),
  };
  const std::vector<OptionRow> tls = TlsRows(&s->tls);
  rows.insert(rows.begin() + 1, tls.begin(), tls.end());  // after the door
  return rows;
}

}  // namespace

absl::StatusOr<SettingsRead> ReadSettings(const std::vector<std::string>& arguments,
                                          const std::map<std::string, std::string>& environment) {
  SettingsRead read;
  read.settings.listen = absl::StrCat("unix:/tmp/muond-coordinator-", ::geteuid(), ".sock");
  OptionTable table(Rows(&read.settings), "MUOND_COORDINATOR_", /*shared=*/false);
  const absl::StatusOr<Action> action = table.Read(arguments, environment);
  if (!action.ok()) return action.status();
  read.action = *action;
  read.settings.listen = *CanonicalEndpoint(read.settings.listen);
  if (*action == Action::kRun || *action == Action::kCheckConfig) {
    if (auto status = CheckDoorTls(read.settings.listen, read.settings.tls, absl::Now());
        !status.ok())
      return status;
    if (auto status = CheckEtcd(read.settings, absl::Now()); !status.ok()) return status;
  }
  if (*action == Action::kHelp) read.text = kUsage + table.Help() + kExitCodes;
  if (*action == Action::kPrintConfig) read.text = table.PrintYaml();
  return read;
}

}  // namespace muond
