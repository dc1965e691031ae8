#include "proto/wire/job_page.h"

#include <cstring>

#include "absl/strings/str_format.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

constexpr uint64_t RoundUp64(uint64_t bytes) { return (bytes + 63) / 64 * 64; }

static_assert(sizeof(PageHeader) == 40 && sizeof(SheetHeader) == 48 && sizeof(GroupScalars) == 56);

absl::Status CheckCount(const char* what, uint64_t count, int64_t limit) {
  if (count <= static_cast<uint64_t>(limit)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("job page: %u %s, the limit is %d", count, what, limit));
}

}  // namespace

JobPage::Offsets JobPage::Lay(const PageShape& shape) {
  // Counts are below 2^21 each (SizeBytes), so no product here passes 2^64.
  const uint64_t ranks = shape.ranks;
  Offsets at{};
  at.bucket_row = RoundUp64(uint64_t{shape.buckets} * sizeof(Cell));
  at.item_row = RoundUp64(uint64_t{shape.items} * sizeof(Cell));
  at.gradient_ready = RoundUp64(sizeof(PageHeader));
  at.taken = at.gradient_ready + ranks * at.bucket_row;
  at.parameter_ready = at.taken + ranks * at.bucket_row;
  at.step_over = at.parameter_ready + ranks * at.item_row;
  at.sheets = at.step_over + ranks * 64;
  at.groups = RoundUp64(sizeof(SheetHeader));
  at.present = RoundUp64(at.groups + uint64_t{shape.groups} * sizeof(GroupScalars));
  at.attempts = RoundUp64(at.present + (uint64_t{shape.tensors} + 63) / 64 * 8);
  at.digests = RoundUp64(at.attempts + uint64_t{shape.buckets} * 4);
  at.sheet_bytes = RoundUp64(at.digests + uint64_t{shape.blocks_max} * 8);
  at.total = at.sheets + ranks * 2 * at.sheet_bytes;
  return at;
}

absl::StatusOr<uint64_t> JobPage::SizeBytes(const PageShape& shape) {
  if (shape.ranks == 0)
    return absl::InvalidArgumentError("job page: 0 ranks, at least 1 is needed");
  for (absl::Status status :
       {CheckCount("ranks", shape.ranks, kRanksMax),
        CheckCount("buckets", shape.buckets, kBucketsMax),
        CheckCount("items", shape.items, kItemsMax), CheckCount("groups", shape.groups, kGroupsMax),
        CheckCount("tensors", shape.tensors, kTensorsMax),
        CheckCount("blocks of one rank", shape.blocks_max, kBlocksPerRankMax)}) {
    if (!status.ok()) return status;
  }
  const uint64_t total = Lay(shape).total;
  if (total > kPageBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("job page: %u bytes for %u ranks, %u buckets, %u items; the limit is %u",
                        total, shape.ranks, shape.buckets, shape.items, kPageBytesMax));
  }
  return total;
}

JobPage::JobPage(void* base, const PageShape& shape)
    : base_(static_cast<char*>(base)), shape_(shape), at_(Lay(shape)) {}

void JobPage::Format(uint64_t job, uint32_t incarnation) {
  PageHeader& page = header();
  page.magic = kPageMagic;
  page.job = job;
  page.incarnation = incarnation;
  page.ranks = shape_.ranks;
  page.buckets = shape_.buckets;
  page.items = shape_.items;
  page.poison.store(0, std::memory_order_release);
}

absl::Status JobPage::Check(uint64_t job, uint32_t incarnation) const {
  const PageHeader& page = header();
  if (page.magic != kPageMagic) {
    return absl::FailedPreconditionError(
        absl::StrFormat("job page starts with %#x, not the magic %#x", page.magic, kPageMagic));
  }
  if (page.job != job || page.incarnation != incarnation) {
    return absl::FailedPreconditionError(
        absl::StrFormat("job page is of job %u, incarnation %u; expected job %u, incarnation %u",
                        page.job, page.incarnation, job, incarnation));
  }
  if (page.ranks != shape_.ranks || page.buckets != shape_.buckets || page.items != shape_.items) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "job page has %u ranks, %u buckets, %u items; expected %u, %u, %u", page.ranks,
        page.buckets, page.items, shape_.ranks, shape_.buckets, shape_.items));
  }
  return absl::OkStatus();
}

Cell& JobPage::CellAt(uint64_t offset) const { return *reinterpret_cast<Cell*>(base_ + offset); }

char* JobPage::SheetBase(uint32_t rank, uint64_t step) const {
  return base_ + at_.sheets + (uint64_t{rank} * 2 + step % 2) * at_.sheet_bytes;
}

PageHeader& JobPage::header() const { return *reinterpret_cast<PageHeader*>(base_); }

Cell& JobPage::gradient_ready(uint32_t rank, uint32_t bucket) const {
  return CellAt(at_.gradient_ready + rank * at_.bucket_row + bucket * sizeof(Cell));
}
Cell& JobPage::taken(uint32_t rank, uint32_t bucket) const {
  return CellAt(at_.taken + rank * at_.bucket_row + bucket * sizeof(Cell));
}
Cell& JobPage::parameter_ready(uint32_t rank, uint32_t item) const {
  return CellAt(at_.parameter_ready + rank * at_.item_row + item * sizeof(Cell));
}
Cell& JobPage::step_over(uint32_t rank) const {
  return CellAt(at_.step_over + uint64_t{rank} * 64);
}

SheetHeader& JobPage::sheet(uint32_t rank, uint64_t step) const {
  return *reinterpret_cast<SheetHeader*>(SheetBase(rank, step));
}
GroupScalars* JobPage::groups(uint32_t rank, uint64_t step) const {
  return reinterpret_cast<GroupScalars*>(SheetBase(rank, step) + at_.groups);
}
uint64_t* JobPage::present(uint32_t rank, uint64_t step) const {
  return reinterpret_cast<uint64_t*>(SheetBase(rank, step) + at_.present);
}
uint32_t* JobPage::attempts(uint32_t rank, uint64_t step) const {
  return reinterpret_cast<uint32_t*>(SheetBase(rank, step) + at_.attempts);
}
uint64_t* JobPage::digests(uint32_t rank, uint64_t step) const {
  return reinterpret_cast<uint64_t*>(SheetBase(rank, step) + at_.digests);
}

}  // namespace muond
