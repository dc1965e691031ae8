// Log: one line per state change, as text or JSON, on standard error; and CHECK for bugs.
//
//   Log(Severity::kInfo, "stepper.started", {{"pid", pid}, {"starts", starts}});
//   text: 2026-01-31T12:00:00.123456Z INFO  stepper.started pid=4711 starts=2
//   json:
//   {"time":"2026-01-31T12:00:00.123456Z","severity":"info","event":"stepper.started","pid":4711,"starts":2}
//
// An event is room.what, in lower case; a field's unit is in its name. Never a token, never a
// session. Threads: any; a line is one write(2), so that lines of several threads and processes do
// not mix. Errors:  none are reported; a line that cannot be written is counted
// (log_lines_dropped()).
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace muond {

enum class Severity : uint8_t { kDebug = 0, kInfo = 1, kWarning = 2, kError = 3 };
enum class LogFormat : uint8_t { kText = 0, kJson = 1 };

absl::StatusOr<Severity> ParseSeverity(std::string_view name);    // debug, info, warning, error
absl::StatusOr<LogFormat> ParseLogFormat(std::string_view name);  // text, json

struct LogField {
  template <typename T>
  LogField(std::string_view name, const T& v) : name(name), value(Hold(v)) {}
  std::string_view name;
  std::variant<bool, int64_t, uint64_t, double, std::string> value;

 private:
  template <typename T>
  static std::variant<bool, int64_t, uint64_t, double, std::string> Hold(const T& v) {
    if constexpr (std::is_same_v<T, bool>)
      return v;
    else if constexpr (std::is_floating_point_v<T>)
      return static_cast<double>(v);
    else if constexpr (std::is_enum_v<T>)
      return static_cast<int64_t>(v);
    else if constexpr (std::is_integral_v<T> && std::is_signed_v<T>)
      return static_cast<int64_t>(v);
    else if constexpr (std::is_integral_v<T>)
      return static_cast<uint64_t>(v);
    else if constexpr (std::is_same_v<T, absl::Status>)
      return v.ToString();
    else
      return std::string(std::string_view(v));
  }
};
using LogFields = std::initializer_list<LogField>;

// The line without its newline: what Log writes at `now`.
std::string FormatLogLine(LogFormat format, absl::Time now, Severity severity,
                          std::string_view event, LogFields fields);

// Lines below `least` are not formed. Process-wide; set once at start, before other threads log.
void ConfigureLog(Severity least, LogFormat format);
void Log(Severity severity, std::string_view event, LogFields fields = {});
uint64_t log_lines_dropped();

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

}  // namespace muond

// A bug when false: logs file, line and condition, then aborts. Operating errors are absl::Status,
// never this.
#define MUOND_CHECK(condition) \
  ((condition) ? void(0) : ::muond::CheckFailed(__FILE__, __LINE__, #condition, ""))
#define MUOND_CHECK_OK(expression)                                                          \
  do {                                                                                      \
    const absl::Status muond_check_status = (expression);                                   \
    if (!muond_check_status.ok())                                                           \
      ::muond::CheckFailed(__FILE__, __LINE__, #expression, muond_check_status.ToString()); \
  } while (false)
