// Rows of an OptionTable over fields of a struct: text that is checked on its way in and written back on its way out.
// `field` is borrowed for the table's life. Every row's `set` answers INVALID_ARGUMENT with what is expected.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/observe/option_table.h"

namespace muond {

using OptionCheck = std::function<absl::Status(const std::string& text)>;

OptionRow LineOption(std::string name, std::string value, std::string help, std::string* field,
                     OptionCheck check = nullptr);
OptionRow SwitchOption(std::string name, std::string help, bool* field, bool hidden = false);
OptionRow BytesOption(std::string name, std::string help, uint64_t* field);
OptionRow SecondsOption(std::string name, std::string help, absl::Duration* field);
// The levels and formats of server/observe/log.h.
OptionRow LogLevelOption(std::string* field);
OptionRow LogFormatOption(std::string* field);

template <typename T>
OptionRow WholeOption(std::string name, std::string value, std::string help, T* field,
                      int64_t least, int64_t most, bool hidden = false) {
  return {std::move(name),
          std::move(value),
          std::move(help),
          [field, least, most](const std::string& text) {
            const auto number = ParseInteger(text, least, most);
            if (number.ok()) *field = static_cast<T>(*number);
            return number.status();
          },
          [field] { return absl::StrCat(*field); },
          hidden};
}

// INVALID_ARGUMENT unless "host:port" with a port from 0 to 65535.
absl::StatusOr<std::string> HostOf(const std::string& host_and_port);

// Prints what a call asks for that does not run; the exit code then. `version`: "muond 0.1.0 (protocol 1.0)".
std::optional<int> AnswerAction(Action action, const std::string& version, const std::string& text);

}  // namespace muond
