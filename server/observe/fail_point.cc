#include "server/observe/fail_point.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace muond {
namespace {

std::atomic<bool> g_armed{false};
std::atomic<int64_t> g_left{0};
std::string& ArmedName() {  // written by ConfigureFailPoint only, before g_armed
  static std::string& name = *new std::string;
  return name;
}

void AppendView(std::string* out, std::string_view view) { out->append(view); }

}  // namespace

absl::Status ConfigureFailPoint(const std::string& list, uint32_t start) {
  g_armed.store(false);
  if (list.empty()) return absl::OkStatus();
  uint32_t entry = 0;
  std::string name;
  int64_t count = 0;
  for (const std::string& text : std::vector<std::string>(absl::StrSplit(list, ','))) {
    const size_t colon = text.rfind(':');
    int64_t passages = 0;
    if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &passages) ||
        passages < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("fail point \"", text, "\" is not NAME:COUNT with COUNT at least 1"));
    }
    const std::string point = text.substr(0, colon);
    if (std::find(std::begin(kFailPoints), std::end(kFailPoints), point) == std::end(kFailPoints)) {
      return absl::InvalidArgumentError(
          absl::StrCat("there is no fail point \"", point,
                       "\"; there are: ", absl::StrJoin(kFailPoints, ", ", AppendView)));
    }
    if (++entry != start) continue;
    name = point;
    count = passages;
  }
  if (name.empty()) return absl::OkStatus();
  ArmedName() = name;
  g_left.store(count);
  g_armed.store(true, std::memory_order_release);
  return absl::OkStatus();
}

bool FailPointArmed() { return g_armed.load(std::memory_order_acquire); }

void FailPoint(FailPointName point) {
  if (!g_armed.load(std::memory_order_acquire) || point.name != ArmedName()) return;
  if (g_left.fetch_sub(1) == 1) ::kill(::getpid(), SIGKILL);
}

}  // namespace muond
