// The job page: one host slab per job that the daemon and every rank of the job map. It holds cells and sheets.
//
// Layout (all offsets, and each rank's row of a table, start at multiples of 64; computed on both sides from the same
// PageShape, never read from the page). Byte by byte: proto/wire/README.md.
//   header             PageHeader
//   gradient_ready     Cell [ranks][buckets]   rank writes (step << 16 | attempt); gradients of the bucket are in its slab
//   taken              Cell [ranks][buckets]   daemon writes step: the rank may write the next gradient of the bucket
//   parameter_ready    Cell [ranks][items]     daemon writes step: the rank's part of the item's parameter is in its slab
//   step_over          Cell [ranks]            daemon writes (step << 8 | outcome) when everything of the step is done for that rank
//   sheets             [ranks][2]              rank writes; sheet of step S is [S % 2]
// A rank may write only its own rows of gradient_ready and its own sheets; the daemon never trusts the page for sizes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/runtime/cell.h"

namespace muond {

struct PageShape {
  uint32_t ranks = 0, buckets = 0, items = 0, groups = 0, tensors = 0,
           blocks_max = 0;  // blocks_max: most blocks of one rank
};

inline constexpr uint64_t kPageMagic = 0x314547415044554d;  // "MUDPAGE1"

struct PageHeader {
  uint64_t magic, job;
  uint32_t incarnation, ranks, buckets, items;
  Cell poison;  // 0, or kPoison: the job is dead for its ranks (keeper gone, or expelled)
};

enum class StepOutcome : uint8_t { kApplied = 1, kVoid = 2 };

struct GroupScalars {
  double lr, weight_decay, momentum, eps, beta1, beta2;
  uint64_t nesterov;  // 0 or 1
};

// Followed, at fixed offsets, by: GroupScalars[groups]; uint64_t present[(tensors + 63) / 64] (bit set: has a gradient);
// uint32_t attempt[buckets]; uint64_t digest[blocks_max] (64-bit digest of the gradient bytes of each block of the rank whose
// replica kind is SAME; 0 elsewhere).
struct SheetHeader {
  Cell commit;  // stored last: the step; the sheet is valid for exactly that step
  uint64_t step, epoch;
  uint32_t incarnation, found_inf;
  double loss_scale;  // gradients are divided by it; 1 without scaling
  double clip_norm;   // 0: no clipping
};

class JobPage {
 public:
  static absl::StatusOr<uint64_t> SizeBytes(
      const PageShape& shape);                  // INVALID_ARGUMENT beyond the limits
  JobPage(void* base, const PageShape& shape);  // base is borrowed, of SizeBytes(shape)

  // Daemon: writes the header over a zeroed page.
  void Format(uint64_t job, uint32_t incarnation);
  // Rank: FAILED_PRECONDITION when the page is not of this job, incarnation and shape (both values in the text).
  absl::Status Check(uint64_t job, uint32_t incarnation) const;

  // REQUIRES: rank, bucket, item below the counts of the shape. Any step: the sheet's place is step % 2.
  PageHeader& header() const;
  Cell& gradient_ready(uint32_t rank, uint32_t bucket) const;
  Cell& taken(uint32_t rank, uint32_t bucket) const;
  Cell& parameter_ready(uint32_t rank, uint32_t item) const;
  Cell& step_over(uint32_t rank) const;
  SheetHeader& sheet(uint32_t rank, uint64_t step) const;
  GroupScalars* groups(uint32_t rank, uint64_t step) const;
  uint64_t* present(uint32_t rank, uint64_t step) const;
  uint32_t* attempts(uint32_t rank, uint64_t step) const;
  uint64_t* digests(uint32_t rank, uint64_t step) const;
  // A whole sheet as bytes: it has the same form on every page of the shape.
  char* sheet_data(uint32_t rank, uint64_t step) const { return SheetBase(rank, step); }
  uint64_t sheet_bytes() const { return at_.sheet_bytes; }

 private:
  struct Offsets {
    uint64_t gradient_ready, taken, parameter_ready, step_over, sheets;  // from the page's start
    uint64_t bucket_row, item_row, sheet_bytes;                          // strides
    uint64_t groups, present, attempts, digests;                         // from a sheet's start
    uint64_t total;
  };
  static Offsets Lay(const PageShape& shape);
  Cell& CellAt(uint64_t offset) const;
  char* SheetBase(uint32_t rank, uint64_t step) const;

  char* base_;
  PageShape shape_;
  Offsets at_;
};

}  // namespace muond
