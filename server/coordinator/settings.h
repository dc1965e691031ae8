// Settings: everything muond-coordinator can be told, from one YAML file, the environment (MUOND_COORDINATOR_*) and flags;
// flags win. The table of settings.cc is the only list of options.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/stubs/tls_options.h"
#include "server/observe/option_table.h"

namespace muond {

struct Settings {
  std::string listen;  // canonical once read
  TlsOptions tls;
  std::string store;  // empty, and no etcd: in memory
  std::string etcd;   // host:port,...: the store, and who of several leads
  std::string etcd_prefix = "/muond/";
  TlsOptions etcd_tls;
  std::string metrics_listen = "off";  // host:port or off
  std::string advertise;               // the door as others reach it; empty: where it listens
  absl::Duration leader_ttl = absl::Seconds(2);
  absl::Duration lease = absl::Seconds(10);
  absl::Duration orphan_lease = absl::Hours(1);
  std::string log_level = "info";
  std::string log_format = "text";
};

struct SettingsRead {
  Action action = Action::kRun;
  Settings settings;
  std::string text;  // kHelp, kPrintConfig: what to print
};

// `arguments` without argv[0]. INVALID_ARGUMENT: as server/observe/option_table.h says; a store whose folder cannot be
// written; as CheckDoorTls (proto/stubs/tls_options.h) says.
absl::StatusOr<SettingsRead> ReadSettings(const std::vector<std::string>& arguments,
                                          const std::map<std::string, std::string>& environment);

}  // namespace muond
