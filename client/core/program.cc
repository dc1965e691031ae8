#include "client/core/program.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace muond {
namespace {

std::string FolderOfThisLibrary() {
  Dl_info info = {};
  if (::dladdr(reinterpret_cast<void*>(&FolderOfThisLibrary), &info) == 0 || !info.dli_fname) {
    return ".";
  }
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

bool Runs(const std::string& path) { return ::access(path.c_str(), X_OK) == 0; }

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& named) {
  if (!named.empty()) {
    if (Runs(named)) return named;
    return absl::NotFoundError(absl::StrCat("the muond binary is not at ", named));
  }
  if (const char* set = std::getenv("MUOND_BIN"); set != nullptr && *set != '\0') {
    if (Runs(set)) return set;
    return absl::NotFoundError(absl::StrCat("MUOND_BIN names ", set, ", which cannot be run"));
  }
  const std::string folder = FolderOfThisLibrary();
  std::vector<std::string> places = {
      absl::StrCat(folder, "/bin/muond"), absl::StrCat(folder, "/../bin/muond"),
      absl::StrCat(folder, "/../../bin/muond"), absl::StrCat(folder, "/../../server/daemon/muond")};
  if (const char* path = std::getenv("PATH"); path != nullptr) {
    for (absl::string_view entry : absl::StrSplit(path, ':', absl::SkipEmpty())) {
      places.push_back(absl::StrCat(entry, "/muond"));
    }
  }
  for (const std::string& place : places) {
    if (Runs(place)) return place;
  }
  return absl::NotFoundError(absl::StrCat(
      "no muond binary: set MUOND_BIN, or MUOND_ENDPOINT for a daemon that runs. Looked at ",
      absl::StrJoin(places, ", ")));
}

}  // namespace muond
