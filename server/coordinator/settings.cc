#include "server/coordinator/settings.h"

#include <unistd.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "proto/stubs/endpoint.h"
#include "server/observe/option_rows.h"

namespace muond {
namespace {

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

absl::Status CheckListen(const std::string& text) {
  const absl::StatusOr<std::string> endpoint = CanonicalEndpoint(text);
  if (!endpoint.ok()) return endpoint.status();
  return IsUnixEndpoint(*endpoint) ? absl::OkStatus() : CheckLoopback(*endpoint);
}

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

std::vector<OptionRow> Rows(Settings* s) {
  return {
      LineOption("listen", "ENDPOINT", "unix:/path, or host:port on loopback.", &s->listen,
                 CheckListen),
      LineOption("store", "FILE", "SQLite file that outlives this process. Without it: in memory.",
                 &s->store, CheckStore),
      LeaseOption(&s->lease),
      SecondsOption("orphan_lease_s", "How long a job whose daemon is gone stays for its return.",
                    &s->orphan_lease),
      LogLevelOption(&s->log_level),
      LogFormatOption(&s->log_format),
  };
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
  if (*action == Action::kHelp) read.text = kUsage + table.Help() + kExitCodes;
  if (*action == Action::kPrintConfig) read.text = table.PrintYaml();
  read.settings.listen = *CanonicalEndpoint(read.settings.listen);
  return read;
}

}  // namespace muond
