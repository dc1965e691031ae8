// OptionTable: one table from which a program's flags, environment, YAML file, --help and --print-config all come.
// A value is text until its option's `set` has checked it. Later sources win: default, file, environment, flags.
// Threads: plain values; read before any thread starts.
// Errors:  INVALID_ARGUMENT naming the source, the key, what was wrong and, for an unknown key, the nearest known one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace muond {

// What the call asks for, beside values: --help, --version, --check-config, --print-config.
enum class Action : uint8_t { kRun, kHelp, kVersion, kCheckConfig, kPrintConfig };

struct OptionRow {
  std::string
      name;  // snake_case: the YAML key; --with-dashes as a flag; PREFIX_UPPER_CASE in the environment
  std::string value;  // what --help calls the value; empty: a switch (true or false)
  std::string help;
  std::function<absl::Status(const std::string& text)> set;
  std::function<std::string()> get;  // the value as `set` would take it
  bool hidden = false;               // not for people: not in --help, file or environment
};

class OptionTable {
 public:
  // `prefix`: of the environment's variables, with its underscore: "MUOND_". `shared`: others use that prefix too.
  OptionTable(std::vector<OptionRow> rows, std::string prefix, bool shared)
      : rows_(std::move(rows)), prefix_(std::move(prefix)), shared_(shared) {}

  // Everything: the file that --config or PREFIX_CONFIG names, the environment, the flags (`arguments` without argv[0]).
  // After --help and --version nothing more is read. `flags_only`: what another process has read already.
  absl::StatusOr<Action> Read(const std::vector<std::string>& arguments,
                              const std::map<std::string, std::string>& environment,
                              bool flags_only = false);

  absl::Status SetFromYaml(const std::string& text, const std::string& path);
  // Only names with the prefix. Those that are no options are errors; of a shared prefix, those so near to an option that
  // they must be meant as one.
  absl::Status SetFromEnvironment(const std::map<std::string, std::string>& environment);
  // "--name=value", "--name value", "--switch". What is no flag is an error.
  absl::Status SetFromFlags(const std::vector<std::string>& arguments);

  std::string Help() const;  // one paragraph an option, with its default as it is now
  std::string PrintYaml()
      const;  // every option that is not hidden, with where its value comes from
  std::vector<std::string> AsFlags()
      const;  // every option: what another process needs to have the same

 private:
  OptionRow* Find(const std::string& name);
  std::string Nearest(const std::string& name) const;
  std::string VariableOf(const std::string& name) const;
  absl::Status Set(OptionRow* row, const std::string& text, const std::string& source);

  std::vector<OptionRow> rows_;
  std::string prefix_;
  bool shared_;
  std::map<std::string, std::string> source_;
};

std::map<std::string, std::string> ProcessEnvironment();

// For the `set` of a row.
absl::StatusOr<bool> ParseBool(const std::string& text);
absl::StatusOr<int64_t> ParseInteger(const std::string& text, int64_t least, int64_t most);
absl::StatusOr<double> ParseNumber(const std::string& text, double least, double most);
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);  // 123, 64KiB, 1.5GiB

}  // namespace muond
