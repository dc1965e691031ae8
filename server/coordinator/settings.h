// Settings: everything muond-coordinator can be told, from one YAML file, the environment (MUOND_COORDINATOR_*) and flags;
// flags win. The table of settings.cc is the only list of options.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/observe/option_table.h"

namespace muond {

struct Settings {
  std::string listen;  // canonical once read
  std::string store;   // empty: in memory
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
// written; an address beyond this machine.
absl::StatusOr<SettingsRead> ReadSettings(const std::vector<std::string>& arguments,
                                          const std::map<std::string, std::string>& environment);

}  // namespace muond
