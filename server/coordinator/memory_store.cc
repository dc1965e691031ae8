#include <map>

#include "server/coordinator/store.h"

namespace muond {
namespace {

class MemoryStore final : public Store {
 public:
  absl::Status Commit(absl::Span<const Change> changes) override {
    for (const Change& change : changes) {
      if (change.kind == Change::Kind::kPut) {
        pairs_[change.key] = change.value;
        continue;
      }
      auto at = pairs_.lower_bound(change.key);
      while (at != pairs_.end() && at->first.starts_with(change.key)) at = pairs_.erase(at);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Scan(
      std::string_view prefix) override {
    std::vector<std::pair<std::string, std::string>> found;
    for (auto at = pairs_.lower_bound(std::string(prefix));
         at != pairs_.end() && at->first.starts_with(prefix); ++at) {
      found.push_back(*at);
    }
    return found;
  }

 private:
  std::map<std::string, std::string> pairs_;
};

}  // namespace

std::unique_ptr<Store> CreateMemoryStore() { return std::make_unique<MemoryStore>(); }

}  // namespace muond
