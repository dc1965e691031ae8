#include "proto/carrier/admissions.h"

#include <sys/random.h>

#include <cerrno>

#include "absl/strings/str_cat.h"

namespace muond {

absl::StatusOr<AdmissionKey> NewAdmissionKey() {
  AdmissionKey key;
  ssize_t got;
  do {
    got = ::getrandom(key.data(), key.size(), 0);
  } while (got < 0 && errno == EINTR);
  if (got != static_cast<ssize_t>(key.size())) {
    return absl::InternalError(
        absl::StrCat("getrandom gave ", got, " of ", key.size(), " bytes, errno ", errno));
  }
  return key;
}

absl::Status Admissions::Add(const AdmissionKey& key, uint64_t tag) {
  if (Find(key) != waiting_.end()) return absl::AlreadyExistsError("this key waits already");
  if (waiting_.size() >= kAdmissionsMax) {
    return absl::ResourceExhaustedError(absl::StrCat(
        waiting_.size(), " keys wait for their connection, the most is ", kAdmissionsMax));
  }
  waiting_.push_back({key, tag});
  return absl::OkStatus();
}

void Admissions::Withdraw(const AdmissionKey& key) { (void)Take(key); }

std::optional<uint64_t> Admissions::Take(const AdmissionKey& key) {
  const auto found = Find(key);
  if (found == waiting_.end()) return std::nullopt;
  const uint64_t tag = found->tag;
  waiting_.erase(found);
  return tag;
}

// Looks at every byte of every key: the time must not tell how much of a guess was right.
std::vector<Admissions::Waiting>::iterator Admissions::Find(const AdmissionKey& key) {
  auto found = waiting_.end();
  for (auto entry = waiting_.begin(); entry != waiting_.end(); ++entry) {
    unsigned difference = 0;
    for (size_t i = 0; i < key.size(); ++i)
      difference |= std::to_integer<unsigned>(entry->key[i] ^ key[i]);
    if (difference == 0) found = entry;
  }
  return found;
}

}  // namespace muond
