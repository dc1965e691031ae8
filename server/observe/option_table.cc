#include "server/observe/option_table.h"

#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

extern char** environ;

namespace muond {
namespace {

std::string FlagOf(const std::string& name) { return absl::StrReplaceAll(name, {{"_", "-"}}); }

// Levenshtein: insertions, deletions, substitutions.
size_t Distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string Quoted(const std::string& text) {
  return "\"" + absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}) + "\"";
}

// Folds help to the width of a terminal.
std::string Folded(const std::string& text, size_t indent, size_t width) {
  std::string out, line;
  size_t at = 0;
  while (at < text.size()) {
    size_t end = text.find(' ', at);
    if (end == std::string::npos) end = text.size();
    if (!line.empty() && line.size() + 1 + (end - at) > width - indent) {
      out += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += text.substr(at, end - at);
    at = end + 1;
  }
  return out + std::string(indent, ' ') + line + "\n";
}

}  // namespace

std::string OptionTable::VariableOf(const std::string& name) const {
  return prefix_ + absl::AsciiStrToUpper(name);
}

OptionRow* OptionTable::Find(const std::string& name) {
  for (OptionRow& row : rows_) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

std::string OptionTable::Nearest(const std::string& name) const {
  std::string best;
  size_t least = std::string::npos;
  for (const OptionRow& row : rows_) {
    if (row.hidden) continue;
    if (const size_t distance = Distance(name, row.name); distance < least) {
      least = distance;
      best = row.name;
    }
  }
  return best;
}

absl::Status OptionTable::Set(OptionRow* row, const std::string& text, const std::string& source) {
  if (auto status = row->set(text); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", row->name, " = ", Quoted(text),
                                                   ": ", std::string(status.message())));
  }
  source_[row->name] = source;
  return absl::OkStatus();
}

absl::Status OptionTable::SetFromYaml(const std::string& text, const std::string& path) {
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", e.what()));
  }
  if (root.IsNull()) return absl::OkStatus();
  if (!root.IsMap())
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected keys with values"));
  std::map<std::string, int> seen;
  for (const auto& entry : root) {
    if (!entry.first.IsScalar())
      return absl::InvalidArgumentError(absl::StrCat(path, ": a key is not a word"));
    const std::string key = entry.first.Scalar();
    const std::string where = absl::StrCat(path, ":", entry.first.Mark().line + 1);
    if (!seen.emplace(key, 1).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": ", key, " is given twice"));
    }
    OptionRow* row = Find(key);
    if (row == nullptr || row->hidden) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": unknown key ", Quoted(key),
                                                     "; the nearest known one is ", Nearest(key)));
    }
    std::string value;
    if (entry.second.IsScalar()) {
      value = entry.second.Scalar();
    } else if (entry.second.IsSequence()) {
      for (const auto& part : entry.second) {
        if (!part.IsScalar())
          return absl::InvalidArgumentError(absl::StrCat(where, ": ", key, ": a list of lists"));
        absl::StrAppend(&value, value.empty() ? "" : ",", part.Scalar());
      }
    } else if (!entry.second.IsNull()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": ", key, " takes one value, not a table"));
    }
    if (auto status = Set(row, value, where); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status OptionTable::SetFromEnvironment(
    const std::map<std::string, std::string>& environment) {
  for (const auto& [variable, value] : environment) {
    if (variable.rfind(prefix_, 0) != 0) continue;
    const std::string name = absl::AsciiStrToLower(variable.substr(prefix_.size()));
    OptionRow* row = Find(name);
    if (row != nullptr && !row->hidden && VariableOf(name) == variable) {
      if (auto status = Set(row, value, absl::StrCat("environment ", variable)); !status.ok())
        return status;
      continue;
    }
    // Of a shared prefix one or two letters from an option is a slip; the rest is the others'.
    const std::string nearest = Nearest(name);
    if (!nearest.empty() && (!shared_ || Distance(name, nearest) <= 2)) {
      return absl::InvalidArgumentError(absl::StrCat("environment ", variable,
                                                     " is no option; the nearest known one is ",
                                                     VariableOf(nearest)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Action> OptionTable::Read(const std::vector<std::string>& arguments,
                                         const std::map<std::string, std::string>& environment,
                                         bool flags_only) {
  const std::string file_variable = VariableOf("config");
  std::vector<std::string> flags;
  std::string file;
  Action action = Action::kRun;
  if (const auto found = environment.find(file_variable); found != environment.end())
    file = found->second;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& a = arguments[i];
    if (a == "--help" || a == "-h") return Action::kHelp;
    if (a == "--version") return Action::kVersion;
    if (a == "--check-config")
      action = Action::kCheckConfig;
    else if (a == "--print-config")
      action = Action::kPrintConfig;
    else if (a.rfind("--config=", 0) == 0)
      file = a.substr(9);
    else if (a == "--config" && i + 1 < arguments.size())
      file = arguments[++i];
    else if (a == "--config")
      return absl::InvalidArgumentError("--config needs a value: FILE");
    else
      flags.push_back(a);
  }
  if (!flags_only) {
    if (!file.empty()) {
      std::ifstream stream(file);
      std::error_code ignored;
      if (!stream || std::filesystem::is_directory(file, ignored)) {
        return absl::InvalidArgumentError(
            absl::StrCat("cannot read the configuration file ", file));
      }
      std::stringstream text;
      text << stream.rdbuf();
      if (auto status = SetFromYaml(text.str(), file); !status.ok()) return status;
    }
    auto variables = environment;
    variables.erase(file_variable);
    if (auto status = SetFromEnvironment(variables); !status.ok()) return status;
  }
  if (auto status = SetFromFlags(flags); !status.ok()) return status;
  return action;
}

absl::Status OptionTable::SetFromFlags(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument.rfind("--", 0) != 0 || argument.size() == 2) {
      return absl::InvalidArgumentError(
          absl::StrCat("unexpected argument ", Quoted(argument), "; see --help"));
    }
    const size_t equals = argument.find('=');
    const std::string flag = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
    const std::string name = absl::StrReplaceAll(flag, {{"-", "_"}});
    OptionRow* row = Find(name);
    if (row == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(
          "unknown flag --", flag, "; the nearest known one is --", FlagOf(Nearest(name))));
    }
    std::string value = "true";
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (!row->value.empty()) {
      if (i + 1 >= arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat("--", flag, " needs a value: ", row->value));
      }
      value = arguments[++i];
    }
    if (auto status = Set(row, value, absl::StrCat("flag --", flag)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

std::string OptionTable::Help() const {
  std::string out;
  for (const OptionRow& row : rows_) {
    if (row.hidden) continue;
    const std::string now = row.get();
    absl::StrAppend(&out, "  --", FlagOf(row.name), row.value.empty() ? "" : " " + row.value,
                    "  (default: ", now.empty() ? "none" : now, ")\n", Folded(row.help, 6, 100));
  }
  return out;
}

std::string OptionTable::PrintYaml() const {
  std::string out;
  for (const OptionRow& row : rows_) {
    if (row.hidden) continue;
    const auto found = source_.find(row.name);
    absl::StrAppend(&out, row.name, ": ", row.value.empty() ? row.get() : Quoted(row.get()), "  # ",
                    found == source_.end() ? "default" : found->second, "\n");
  }
  return out;
}

std::vector<std::string> OptionTable::AsFlags() const {
  std::vector<std::string> flags;
  for (const OptionRow& row : rows_)
    flags.push_back(absl::StrCat("--", FlagOf(row.name), "=", row.get()));
  return flags;
}

std::map<std::string, std::string> ProcessEnvironment() {
  std::map<std::string, std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (const size_t equals = text.find('='); equals != std::string::npos) {
      environment[text.substr(0, equals)] = text.substr(equals + 1);
    }
  }
  return environment;
}

absl::StatusOr<bool> ParseBool(const std::string& text) {
  if (text == "true" || text == "yes" || text == "on" || text == "1") return true;
  if (text == "false" || text == "no" || text == "off" || text == "0") return false;
  return absl::InvalidArgumentError("true or false is expected");
}

absl::StatusOr<int64_t> ParseInteger(const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < least || value > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("a whole number from ", least, " to ", most, " is expected"));
  }
  return value;
}

absl::StatusOr<double> ParseNumber(const std::string& text, double least, double most) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value) || value < least || value > most) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a number from %g to %g is expected", least, most));
  }
  return value;
}

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  static constexpr struct {
    const char* suffix;
    double factor;
  } kUnits[] = {
      {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
  std::string number = text;
  double factor = 1;
  for (const auto& unit : kUnits) {
    if (text.size() > 3 && text.compare(text.size() - 3, 3, unit.suffix) == 0) {
      number = text.substr(0, text.size() - 3);
      factor = unit.factor;
    }
  }
  uint64_t whole = 0;
  if (factor == 1 && absl::SimpleAtoi(number, &whole)) return whole;
  double value = 0;
  if (factor == 1 || !absl::SimpleAtod(number, &value) || !(value >= 0) || value * factor > 9e18) {
    return absl::InvalidArgumentError(
        "a byte count is expected, such as 1073741824, 512MiB or 1.5GiB");
  }
  return static_cast<uint64_t>(value * factor);
}

}  // namespace muond
