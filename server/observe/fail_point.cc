#include "server/observe/fail_point.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace muond {
namespace {

std::atomic<bool> g_armed{false};
std::atomic<int64_t> g_left{0};
std::string& ArmedName() {  // written by ConfigureFailPoint only, before g_armed
  static std::string& name = *new std::string;
  return name;
}

}  // namespace

absl::Status ConfigureFailPoint(const std::string& name_and_count) {
  g_armed.store(false);
  if (name_and_count.empty()) return absl::OkStatus();
  const size_t colon = name_and_count.rfind(':');
  int64_t count = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(name_and_count.substr(colon + 1), &count) || count < 1) {
    return absl::InvalidArgumentError(absl::StrCat("fail point \"", name_and_count,
                                                   "\" is not NAME:COUNT with COUNT at least 1"));
  }
  ArmedName() = name_and_count.substr(0, colon);
  g_left.store(count);
  g_armed.store(true, std::memory_order_release);
  return absl::OkStatus();
}

void FailPoint(std::string_view name) {
  if (!g_armed.load(std::memory_order_acquire) || name != ArmedName()) return;
  if (g_left.fetch_sub(1) == 1) ::kill(::getpid(), SIGKILL);
}

}  // namespace muond
