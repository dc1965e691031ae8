#include "server/coordinator/etcd_store.h"

#include <charconv>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace muond {
namespace {

using absl::StrFormat;
using Ops = std::vector<EtcdOp>;

constexpr size_t kPieceBytes = 500'000;
constexpr size_t kSuffixBytes = 7;  // a zero byte and six digits

std::string Numbered(const std::string& before, size_t number) {
  return before + StrFormat("%06d", number);
}

size_t PiecesOf(const std::string& value) {
  return value.empty() ? 1 : (value.size() + kPieceBytes - 1) / kPieceBytes;
}

// A list of operations as bytes: kind, length and bytes of key and value, each length as eight hexadecimal digits.
std::string Pack(const Ops& ops) {
  std::string bytes;
  for (const EtcdOp& op : ops) {
    bytes += op.kind == EtcdOp::Kind::kPut ? 'p' : 'e';
    for (const std::string* part : {&op.key, &op.value})
      bytes += StrFormat("%08x", part->size()) + *part;
  }
  return bytes;
}

absl::StatusOr<Ops> Unpack(const std::string& bytes) {
  Ops ops;
  size_t at = 0;
  const auto part = [&bytes, &at](std::string* to) {
    uint32_t size = 0;
    if (bytes.size() - at < 8) return false;
    const char* const digits = bytes.data() + at;
    if (std::from_chars(digits, digits + 8, size, 16).ptr != digits + 8) return false;
    at += 8;
    if (bytes.size() - at < size) return false;
    *to = bytes.substr(at, size);
    at += size;
    return true;
  };
  while (at < bytes.size()) {
    EtcdOp op;
    op.kind = bytes[at++] == 'p' ? EtcdOp::Kind::kPut : EtcdOp::Kind::kErase;
    if (!part(&op.key) || !part(&op.value))
      return absl::DataLossError("store: a commit in etcd's redo/ ends in mid-operation");
    ops.push_back(std::move(op));
  }
  return ops;
}

class EtcdStore final : public Store {
 public:
  explicit EtcdStore(EtcdStoreOptions options)
      : options_(std::move(options)),
        kv_(options_.prefix + "kv/"),
        redo_(options_.prefix + "redo/") {}

  absl::Status Open() {
    const auto format = options_.etcd->Get(options_.prefix + "format");
    if (!format.ok()) return format.status();
    if (format->create_revision != 0 && format->value != "1") {
      return absl::FailedPreconditionError(StrFormat("store: %sformat is '%s', expected '1'",
                                                     options_.prefix, format->value.substr(0, 40)));
    }
    if (absl::Status status = FinishRedo(); !status.ok()) return status;
    if (absl::Status status = Fenced({Put(options_.prefix + "format", "1")}); !status.ok())
      return status;
    const auto pieces = options_.etcd->Scan(kv_);
    if (!pieces.ok()) return pieces.status();
    for (const EtcdValue& piece : *pieces) {
      const std::string key = piece.key.substr(kv_.size());
      if (key.size() < kSuffixBytes || key[key.size() - kSuffixBytes] != '\0')
        return absl::DataLossError(StrFormat("store: %s is no piece of a value", piece.key));
      pairs_[key.substr(0, key.size() - kSuffixBytes)] += piece.value;
    }
    return absl::OkStatus();
  }

  absl::Status Commit(absl::Span<const Change> changes) override {
    const auto net = Net(changes);
    std::vector<Ops> groups;
    size_t bytes = 0;
    const auto add = [&groups, &bytes](EtcdOp op) {
      const size_t more = op.key.size() + op.value.size() + 32;
      if (groups.empty() || groups.back().size() == kEtcdOpsMax || bytes + more > kEtcdBytesMax) {
        groups.emplace_back();
        bytes = 0;
      }
      bytes += more;
      groups.back().push_back(std::move(op));
    };
    for (const auto& [key, value] : net) {
      const auto old = pairs_.find(key);
      const std::string before = kv_ + key + std::string(1, '\0');
      const size_t wanted = value.has_value() ? PiecesOf(*value) : 0;
      for (size_t i = 0; i < wanted; ++i)
        add(Put(Numbered(before, i), value->substr(i * kPieceBytes, kPieceBytes)));
      const size_t had = old == pairs_.end() ? 0 : PiecesOf(old->second);
      for (size_t i = wanted; i < had; ++i) add({EtcdOp::Kind::kErase, Numbered(before, i), "", 0});
    }
    if (groups.empty()) return absl::OkStatus();
    absl::Status status = groups.size() == 1 ? Fenced(groups[0]) : CommitByRedo(groups);
    if (!status.ok()) return status;
    for (const auto& [key, value] : net) {
      if (value.has_value()) {
        pairs_[key] = *value;
      } else {
        pairs_.erase(key);
      }
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
  using Pairs = std::map<std::string, std::string>;

  static EtcdOp Put(std::string key, std::string value) {
    return {EtcdOp::Kind::kPut, std::move(key), std::move(value), 0};
  }

  // What `changes` come to: etcd lets no transaction name a key twice. Without what is so already.
  std::map<std::string, std::optional<std::string>> Net(absl::Span<const Change> changes) const {
    std::map<std::string, std::optional<std::string>> net;
    for (const Change& change : changes) {
      if (change.kind == Change::Kind::kPut) {
        net[change.key] = change.value;
        continue;
      }
      for (auto at = pairs_.lower_bound(change.key);
           at != pairs_.end() && at->first.starts_with(change.key); ++at) {
        net[at->first] = std::nullopt;
      }
      for (auto at = net.lower_bound(change.key);
           at != net.end() && at->first.starts_with(change.key); ++at) {
        at->second = std::nullopt;
      }
    }
    std::erase_if(net, [this](const auto& entry) {
      const auto old = pairs_.find(entry.first);
      return old == pairs_.end() ? !entry.second.has_value() : entry.second == old->second;
    });
    return net;
  }

  absl::Status Fenced(const Ops& ops) {
    if (options_.lost->load())
      return absl::UnavailableError("store: this coordinator leads no more");
    const auto outcome = options_.etcd->Transact(options_.fence, ops);
    if (outcome.ok() && outcome->done) return absl::OkStatus();
    options_.lost->store(true);
    if (outcome.ok())
      return absl::UnavailableError("store: another coordinator leads; nothing was written");
    return absl::UnavailableError(absl::StrCat("store: ", std::string(outcome.status().message())));
  }

  absl::Status CommitByRedo(const std::vector<Ops>& groups) {
    for (size_t i = 0; i < groups.size(); ++i) {
      if (auto status = Fenced({Put(Numbered(redo_, i), Pack(groups[i]))}); !status.ok())
        return status;
    }
    if (auto status = Fenced({Put(redo_ + "commit", absl::StrCat(groups.size()))}); !status.ok())
      return status;
    return Redo(groups);
  }

  absl::Status Redo(const std::vector<Ops>& groups) {
    for (const Ops& group : groups) {
      if (auto status = Fenced(group); !status.ok()) return status;
    }
    return Fenced({{EtcdOp::Kind::kErasePrefix, redo_, "", 0}});
  }

  // A commit that another leader had begun: done again from its first operation, or forgotten if it did not hold yet.
  absl::Status FinishRedo() {
    const auto left = options_.etcd->Scan(redo_);
    if (!left.ok()) return left.status();
    if (left->empty()) return absl::OkStatus();
    std::vector<Ops> groups;
    if (left->back().key != redo_ + "commit") return Redo(groups);
    for (size_t i = 0; i + 1 < left->size(); ++i) {
      auto ops = Unpack((*left)[i].value);
      if (!ops.ok()) return ops.status();
      groups.push_back(*std::move(ops));
    }
    if (left->back().value != absl::StrCat(groups.size())) {
      return absl::DataLossError(StrFormat("store: a commit in etcd has %d parts of %s",
                                           groups.size(), left->back().value.substr(0, 20)));
    }
    return Redo(groups);
  }

  const EtcdStoreOptions options_;
  const std::string kv_, redo_;
  Pairs pairs_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> OpenEtcdStore(EtcdStoreOptions options) {
  auto store = std::make_unique<EtcdStore>(std::move(options));
  if (absl::Status status = store->Open(); !status.ok()) return status;
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace muond
