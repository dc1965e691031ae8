#include "server/observe/option_rows.h"

#include <cstdio>
#include <utility>

#include "server/observe/log.h"

namespace muond {
namespace {

constexpr double kSecondsMax = 31'536'000;  // a year

}  // namespace

OptionRow LineOption(std::string name, std::string value, std::string help, std::string* field,
                     OptionCheck check) {
  return {std::move(name), std::move(value), std::move(help),
          [field, check = std::move(check)](const std::string& text) {
            if (check != nullptr) {
              if (auto status = check(text); !status.ok()) return status;
            }
            *field = text;
            return absl::OkStatus();
          },
          [field] { return *field; }};
}

OptionRow SwitchOption(std::string name, std::string help, bool* field, bool hidden) {
  return {std::move(name),
          "",
          std::move(help),
          [field](const std::string& text) {
            const auto value = ParseBool(text);
            if (value.ok()) *field = *value;
            return value.status();
          },
          [field] { return std::string(*field ? "true" : "false"); },
          hidden};
}

OptionRow BytesOption(std::string name, std::string help, uint64_t* field) {
  return {std::move(name), "BYTES", std::move(help),
          [field](const std::string& text) {
            const auto value = ParseBytes(text);
            if (value.ok()) *field = *value;
            return value.status();
          },
          [field] { return absl::StrCat(*field); }};
}

OptionRow SecondsOption(std::string name, std::string help, absl::Duration* field) {
  return {std::move(name), "SECONDS", std::move(help),
          [field](const std::string& text) {
            const auto value = ParseNumber(text, 0, kSecondsMax);
            if (value.ok()) *field = absl::Seconds(*value);
            return value.status();
          },
          [field] { return absl::StrCat(absl::ToDoubleSeconds(*field)); }};
}

OptionRow LogLevelOption(std::string* field) {
  return LineOption("log_level", "LEVEL",
                    "Least severity that is logged: debug, info, warning, error.", field,
                    [](const std::string& text) { return ParseSeverity(text).status(); });
}

OptionRow LogFormatOption(std::string* field) {
  return LineOption("log_format", "FORMAT",
                    "text or json; one line per state change, on standard error.", field,
                    [](const std::string& text) { return ParseLogFormat(text).status(); });
}

absl::StatusOr<std::string> HostOf(const std::string& host_and_port) {
  const size_t colon = host_and_port.rfind(':');
  if (colon == std::string::npos || colon == 0)
    return absl::InvalidArgumentError("HOST:PORT is expected");
  if (auto port = ParseInteger(host_and_port.substr(colon + 1), 0, 65535); !port.ok())
    return port.status();
  return host_and_port.substr(0, colon);
}

std::optional<int> AnswerAction(Action action, const std::string& version,
                                const std::string& text) {
  switch (action) {
    case Action::kHelp:
    case Action::kPrintConfig:
      std::fputs(text.c_str(), stdout);
      return 0;
    case Action::kVersion:
      std::puts(version.c_str());
      return 0;
    case Action::kCheckConfig:
      std::puts("the configuration is valid");
      return 0;
    case Action::kRun:
      break;
  }
  return std::nullopt;
}

}  // namespace muond
