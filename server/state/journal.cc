#include "server/state/journal.h"

#include <bit>

#include "absl/strings/str_format.h"

namespace muond {
namespace {
constexpr uint64_t kRecordsAt = sizeof(JournalHeader);
constexpr uint64_t kWordsAt = kRecordsAt + 2 * 64;
}  // namespace

uint64_t Journal::SizeBytes(uint32_t items) { return kWordsAt + uint64_t{items} * sizeof(Cell); }

Cell& Journal::word_cell(uint32_t item) const {
  return reinterpret_cast<Cell*>(base_ + kWordsAt)[item];
}

Journal::VerdictRecord& Journal::record(uint64_t step) const {
  return reinterpret_cast<VerdictRecord*>(base_ + kRecordsAt)[step % 2];
}

void Journal::Format(uint64_t job, uint32_t incarnation, const StateLayout& layout) {
  for (uint64_t which = 0; which < 2; ++which)
    record(which).commit.store(0, std::memory_order_relaxed);
  for (uint32_t item = 0; item < items_; ++item) {
    word_cell(item).store(ItemWord{0, layout.first_slot(item), 0}.Pack(),
                          std::memory_order_relaxed);
  }
  header() = JournalHeader{kJournalMagic, job, items_, incarnation, {}};
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

absl::Status Journal::Check(uint64_t job) const {
  const JournalHeader& head = header();
  if (head.magic == kJournalMagic && head.job == job && head.items == items_)
    return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("journal page of job %x with %d items: found magic %x, job %x, %d items", job,
                      items_, head.magic, head.job, head.items));
}

void Journal::CopyFrom(const Journal& older) {
  header() = older.header();
  CopyVerdicts(older);
  for (uint32_t item = 0; item < items_; ++item) {
    word_cell(item).store(older.word_cell(item).load(std::memory_order_acquire),
                          std::memory_order_release);
  }
}

void Journal::CopyVerdicts(const Journal& older) {
  for (uint64_t which = 0; which < 2; ++which) {
    const VerdictRecord& from = older.record(which);
    VerdictRecord& to = record(which);
    to.clip_factor_bits = from.clip_factor_bits;
    to.reason = from.reason;
    to.detail = from.detail;
    to.commit.store(from.commit.load(std::memory_order_acquire), std::memory_order_release);
  }
}

void Journal::Record(const JournaledVerdict& verdict) {
  VerdictRecord& to = record(verdict.step);
  // Withdrawn first: a torn record is none, never the older step's commit over the newer one's factor.
  to.commit.store(0, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  to.clip_factor_bits = std::bit_cast<uint64_t>(verdict.clip_factor);
  to.reason = verdict.reason;
  to.detail = verdict.detail;
  to.commit.store(verdict.step << 8 | static_cast<uint64_t>(verdict.kind),
                  std::memory_order_release);
}

std::optional<JournaledVerdict> Journal::Read(int which) const {
  const VerdictRecord& from = record(which);
  const uint64_t commit = from.commit.load(std::memory_order_acquire);
  if (commit == 0) return std::nullopt;
  JournaledVerdict verdict;
  verdict.step = commit >> 8;
  verdict.kind = static_cast<VerdictKind>(commit & 0xff);
  verdict.clip_factor = std::bit_cast<double>(from.clip_factor_bits);
  verdict.reason = from.reason;
  verdict.detail = static_cast<uint32_t>(from.detail);
  return verdict;
}

std::optional<JournaledVerdict> Journal::verdict(uint64_t step) const {
  auto found = Read(step % 2);
  if (found && found->step == step) return found;
  return std::nullopt;
}

std::optional<JournaledVerdict> Journal::newest_verdict() const {
  const auto even = Read(0), odd = Read(1);
  if (!even) return odd;
  if (!odd) return even;
  return even->step > odd->step ? even : odd;
}

}  // namespace muond
