#include "client/ctl/command_line.h"

#include <charconv>
#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace muond {
namespace {

using absl::InvalidArgumentError;
using absl::StrFormat;

struct CommandInfo {
  Command command;
  std::string_view synopsis, help;
  std::set<std::string> options;  // beside --endpoint, --timeout, -o, --help
  size_t operands_min = 0, operands_max = 0;
};

const std::map<std::string, CommandInfo>& Commands() {
  static const std::map<std::string, CommandInfo> commands = {
      {"status", {Command::kStatus, "status", "The daemon, its devices and its jobs.", {}}},
      {"jobs", {Command::kJobs, "jobs", "The jobs: ranks, steps, phases, bytes.", {}}},
      {"plan",
       {Command::kPlan,
        "plan [JOB] | plan --offline LIST.csv --devices N",
        "Who owns what, and why. Of a running job (all jobs without a name), or of a model that is "
        "not running:\n"
        "  --offline LIST.csv      its matrices; columns name,rows,cols,count; '#' starts a "
        "comment\n"
        "  --devices N             how many devices (8)\n"
        "  --device-kind KIND      gpu or cpu (gpu): what a device is reckoned to do\n"
        "  --calibration FILE      measured rates instead, as muond-calibrate writes them\n"
        "  --device-memory BYTES   of each device (enough)",
        {"--offline", "--devices", "--device-kind", "--calibration", "--device-memory"},
        0,
        1}},
      {"drain",
       {Command::kDrain,
        "drain",
        "Takes no new jobs and waits up to --timeout for the running ones.",
        {}}},
      {"snapshot",
       {Command::kSnapshot,
        "snapshot JOB DIRECTORY",
        "Writes the job's state to a directory of the daemon.",
        {},
        2,
        2}},
      {"cluster",
       {Command::kCluster,
        "cluster",
        "A coordinator's daemons and jobs; --endpoint names the coordinator.",
        {}}},
      {"top",
       {Command::kTop,
        "top",
        "Nodes, devices and jobs, again and again; --endpoint names a coordinator or a daemon.\n"
        "  --interval SECONDS      between two looks (2)\n"
        "  --count N               looks, then ends; without it until it is interrupted",
        {"--interval", "--count"}}},
      {"doctor",
       {Command::kDoctor,
        "doctor",
        "Looks at this machine and the daemon; says what to change.",
        {}}},
  };
  return commands;
}

template <typename Number>
absl::Status ParseNumber(const std::string& option, const std::string& text, Number least,
                         Number most, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  if (error != std::errc() || end != text.data() + text.size() ||
      !(*value >= least && *value <= most)) {
    return InvalidArgumentError(
        absl::StrCat(option, " ", text, ": allowed are ", least, " to ", most));
  }
  return absl::OkStatus();
}

absl::Status SetOption(const std::string& option, const std::string& value, CommandLine* line) {
  if (option == "--endpoint") {
    line->endpoint = value;
  } else if (option == "-o" || option == "--output") {
    if (value != "json" && value != "text") {
      return InvalidArgumentError(StrFormat("%s %s: allowed are json and text", option, value));
    }
    line->json = value == "json";
  } else if (option == "--tls-ca") {
    line->tls.ca = value;
  } else if (option == "--tls-cert") {
    line->tls.cert = value;
  } else if (option == "--tls-key") {
    line->tls.key = value;
  } else if (option == "--timeout") {
    double seconds = 0;
    if (absl::Status status = ParseNumber(option, value, 0.001, 1e6, &seconds); !status.ok())
      return status;
    line->timeout_seconds = seconds;
  } else if (option == "--interval") {
    return ParseNumber(option, value, 0.01, 1e6, &line->interval_seconds);
  } else if (option == "--count") {
    return ParseNumber(option, value, 1, 1'000'000'000, &line->count);
  } else if (option == "--offline") {
    line->offline_list = value;
  } else if (option == "--devices") {
    return ParseNumber<int64_t>(option, value, 1, 65'536, &line->offline.devices);
  } else if (option == "--device-kind") {
    if (value != "gpu" && value != "cpu") {
      return InvalidArgumentError(StrFormat("--device-kind %s: allowed are gpu and cpu", value));
    }
    line->offline.cpu = value == "cpu";
  } else if (option == "--calibration") {
    line->offline.calibration = value;
  } else if (option == "--device-memory") {
    return ParseNumber<uint64_t>(option, value, 1, uint64_t{1} << 50,
                                 &line->offline.device_memory_bytes);
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(const CommandLine& line, const std::set<std::string>& given,
                           const std::string& name) {
  const CommandInfo& info = Commands().at(name);
  for (const std::string& option : given) {
    static const std::set<std::string> everywhere = {"--endpoint", "--timeout",  "--output",
                                                     "--tls-ca",   "--tls-cert", "--tls-key"};
    if (option.rfind("--", 0) == 0 && !everywhere.contains(option) &&
        !info.options.contains(option)) {
      return InvalidArgumentError(StrFormat("%s takes no %s", name, option));
    }
  }
  if (line.operands.size() < info.operands_min || line.operands.size() > info.operands_max) {
    return InvalidArgumentError(StrFormat("%s with %d operands; usage: muonctl %s", name,
                                          line.operands.size(), info.synopsis));
  }
  if (line.command == Command::kTop && line.json) {
    return InvalidArgumentError(
        "top is for people; for programs ask status and cluster with -o json");
  }
  if (line.command == Command::kPlan && line.offline_list.empty()) {
    for (const std::string& option : given) {
      if (info.options.contains(option))
        return InvalidArgumentError(StrFormat("%s needs --offline LIST.csv", option));
    }
  }
  if (line.command == Command::kPlan && !line.offline_list.empty() && !line.operands.empty()) {
    return InvalidArgumentError(
        StrFormat("plan --offline and the job '%s' exclude each other", line.operands[0]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments) {
  static const std::set<std::string> with_value = {
      "--endpoint",      "-o",         "--output",      "--timeout",
      "--offline",       "--devices",  "--device-kind", "--calibration",
      "--device-memory", "--interval", "--count",       "--tls-ca",
      "--tls-cert",      "--tls-key"};
  CommandLine line;
  std::string name;
  std::set<std::string> given;
  bool help = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string word = arguments[i];
    if (word == "--help" || word == "-h" || (word == "help" && name.empty())) {
      help = true;
      continue;
    }
    if (word == "--plain-tcp") {
      line.tls.plain_tcp = true;
      continue;
    }
    if (word == "--version") {
      line.command = Command::kVersion;
      return line;
    }
    if (word.size() > 1 && word[0] == '-') {
      std::string value;
      bool has_value = false;
      if (const size_t equals = word.find('=');
          word.rfind("--", 0) == 0 && equals != std::string::npos) {
        value = word.substr(equals + 1);
        word.resize(equals);
        has_value = true;
      }
      if (!with_value.contains(word))
        return InvalidArgumentError(StrFormat("unknown option %s", word));
      if (!has_value) {
        if (i + 1 == arguments.size())
          return InvalidArgumentError(StrFormat("%s needs a value", word));
        value = arguments[++i];
      }
      if (value.empty()) return InvalidArgumentError(StrFormat("%s needs a value", word));
      if (absl::Status status = SetOption(word, value, &line); !status.ok()) return status;
      given.insert(word);
    } else if (name.empty()) {
      if (!Commands().contains(word))
        return InvalidArgumentError(StrFormat("unknown command '%s'", word));
      name = word;
    } else {
      line.operands.push_back(word);
    }
  }
  if (help || name.empty()) {
    if (!help && !given.empty()) return InvalidArgumentError("no command");
    line.command = Command::kHelp;
    line.help_for = name;
    return line;
  }
  line.command = Commands().at(name).command;
  if (absl::Status status = CheckTogether(line, given, name); !status.ok()) return status;
  return line;
}

std::string HelpText(const std::string& command) {
  std::string text;
  if (command.empty()) {
    text = "muonctl: looks at and steers a muond daemon.\n\nusage: muonctl COMMAND [OPTIONS]\n\n";
    for (const auto& [name, info] : Commands()) {
      text += StrFormat("  %-10s %s\n", name, info.help.substr(0, info.help.find('\n')));
    }
    text += "\n`muonctl COMMAND --help` tells more.\n\n";
  } else {
    const CommandInfo& info = Commands().at(command);
    text = StrFormat("usage: muonctl %s\n\n%s\n\n", info.synopsis, info.help);
  }
  text +=
      "options of every command:\n"
      "  --endpoint ENDPOINT     unix:/path or host:port (MUOND_ENDPOINT, else the user's own "
      "daemon)\n"
      "  --tls-ca FILE           of a TCP endpoint: the authorities it must be known to "
      "(MUOND_TLS_CA)\n"
      "  --tls-cert FILE, --tls-key FILE   the certificate to show there (MUOND_TLS_CERT, "
      "MUOND_TLS_KEY)\n"
      "  --plain-tcp             allows TCP beyond this machine without TLS (MUOND_PLAIN_TCP=1)\n"
      "  -o json                 for programs; text is for people\n"
      "  --timeout SECONDS       to wait for an answer (10)\n"
      "  --version, --help\n\n"
      "exit status: 0 done, 1 refused or failed, 2 wrong command line, 3 nobody answers, 4 doctor "
      "found a problem or\n"
      "drain left jobs\n";
  return text;
}

}  // namespace muond
