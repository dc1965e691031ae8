#include "server/observe/log.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace muond {
namespace {

std::atomic<Severity> g_least{Severity::kInfo};
std::atomic<LogFormat> g_format{LogFormat::kText};
std::atomic<uint64_t> g_dropped{0};

constexpr const char* kLower[] = {"debug", "info", "warning", "error"};
constexpr const char* kPadded[] = {"DEBUG", "INFO ", "WARN ", "ERROR"};

void AppendQuoted(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(out, "\\u%04x", static_cast<unsigned char>(c));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

bool PlainWord(std::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f) return false;
  }
  return true;
}

void AppendValue(const LogField& field, bool json, std::string* out) {
  if (const auto* b = std::get_if<bool>(&field.value)) {
    out->append(*b ? "true" : "false");
  } else if (const auto* i = std::get_if<int64_t>(&field.value)) {
    absl::StrAppend(out, *i);
  } else if (const auto* u = std::get_if<uint64_t>(&field.value)) {
    absl::StrAppend(out, *u);
  } else if (const auto* d = std::get_if<double>(&field.value)) {
    // JSON has no NaN and no infinity.
    if (std::isfinite(*d)) {
      absl::StrAppendFormat(out, "%.9g", *d);
    } else {
      out->append(json ? "null" : std::isnan(*d) ? "nan" : *d > 0 ? "inf" : "-inf");
    }
  } else {
    const std::string& text = std::get<std::string>(field.value);
    if (!json && PlainWord(text)) {
      out->append(text);
    } else {
      AppendQuoted(text, out);
    }
  }
}

void WriteLine(std::string line) {
  line.push_back('\n');
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t n = ::write(STDERR_FILENO, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      g_dropped.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    done += static_cast<size_t>(n);
  }
}

}  // namespace

absl::StatusOr<Severity> ParseSeverity(std::string_view name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kLower[i]) return static_cast<Severity>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown log level \"", std::string(name), "\": debug, info, warning or error"));
}

absl::StatusOr<LogFormat> ParseLogFormat(std::string_view name) {
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError(
      absl::StrCat("unknown log format \"", std::string(name), "\": text or json"));
}

std::string FormatLogLine(LogFormat format, absl::Time now, Severity severity,
                          std::string_view event, LogFields fields) {
  const bool json = format == LogFormat::kJson;
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", now, absl::UTCTimeZone());
  std::string line;
  if (json) {
    line = absl::StrCat("{\"time\":\"", time, "\",\"severity\":\"",
                        kLower[static_cast<int>(severity)], "\",\"event\":");
    AppendQuoted(event, &line);
  } else {
    line = absl::StrCat(time, " ", kPadded[static_cast<int>(severity)], " ", std::string(event));
  }
  for (const LogField& field : fields) {
    if (json) {
      line.push_back(',');
      AppendQuoted(field.name, &line);
      line.push_back(':');
    } else {
      line.append(" ").append(field.name).append("=");
    }
    AppendValue(field, json, &line);
  }
  if (json) line.push_back('}');
  return line;
}

void ConfigureLog(Severity least, LogFormat format) {
  g_least.store(least);
  g_format.store(format);
}

void Log(Severity severity, std::string_view event, LogFields fields) {
  if (severity < g_least.load(std::memory_order_relaxed)) return;
  WriteLine(FormatLogLine(g_format.load(std::memory_order_relaxed), absl::Now(), severity, event,
                          fields));
}

uint64_t log_lines_dropped() { return g_dropped.load(std::memory_order_relaxed); }

void CheckFailed(const char* file, int line, const char* condition, const std::string& detail) {
  WriteLine(FormatLogLine(
      g_format.load(), absl::Now(), Severity::kError, "check.failed",
      {{"at", absl::StrCat(file, ":", line)}, {"condition", condition}, {"detail", detail}}));
  std::abort();
}

}  // namespace muond
