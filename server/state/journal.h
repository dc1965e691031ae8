// Journal: one job's page of truth. Kept by the keeper, never seen by ranks, copied to a fresh page by every successor.
//
// Layout, all little-endian and 8-byte aligned:
//   0    JournalHeader (64 bytes)
//   64   VerdictRecord [2] (64 bytes each): the verdict of step S is [S % 2]
//   192  Cell [items]: ItemWord
// Threads: the StepLoop writes verdicts, device streams write words (FlipTask). Every store is one aligned 64-bit store:
// a process killed between two leaves the older truth. A VerdictRecord counts when `commit` says so, and that is stored last.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "kernels/runtime/cell.h"
#include "server/state/layout.h"
#include "server/state/word.h"

namespace muond {

inline constexpr uint64_t kJournalMagic = 0x314c4e52554f4a4d;  // "MJOURNL1"

struct JournalHeader {
  uint64_t magic, job;
  uint32_t items, incarnation;
  uint64_t reserved[5];
};
static_assert(sizeof(JournalHeader) == 64);

enum class VerdictKind : uint8_t { kGo = 1, kVoid = 2 };

struct JournaledVerdict {
  uint64_t step = 0;
  VerdictKind kind = VerdictKind::kGo;
  double clip_factor = 1;  // GO
  uint64_t reason = 0;     // VOID: a VoidReason
  uint32_t detail = 0;     // VOID: the tensor or field it names
};

class Journal {
 public:
  static uint64_t SizeBytes(uint32_t items);
  // A view; `base` is borrowed, of SizeBytes(items).
  Journal(void* base, uint32_t items) : base_(static_cast<char*>(base)), items_(items) {}

  // A new job: every item at step 0 in its first slot.
  void Format(uint64_t job, uint32_t incarnation, const StateLayout& layout);
  // DATA_LOSS when the page is not the journal of that job with that many items.
  absl::Status Check(uint64_t job) const;
  void CopyFrom(const Journal& older);
  void CopyVerdicts(const Journal& older);

  Cell& word_cell(uint32_t item) const;
  ItemWord word(uint32_t item) const {
    return ItemWord::Unpack(word_cell(item).load(std::memory_order_acquire));
  }
  uint32_t items() const { return items_; }

  void Record(const JournaledVerdict& verdict);
  std::optional<JournaledVerdict> verdict(uint64_t step) const;
  std::optional<JournaledVerdict> newest_verdict() const;

 private:
  struct VerdictRecord {
    Cell commit;  // step << 8 | kind
    uint64_t clip_factor_bits, reason, detail, reserved[4];
  };
  static_assert(sizeof(VerdictRecord) == 64);
  JournalHeader& header() const { return *reinterpret_cast<JournalHeader*>(base_); }
  VerdictRecord& record(uint64_t step) const;
  std::optional<JournaledVerdict> Read(int which) const;

  char* base_;
  uint32_t items_;
};

}  // namespace muond
