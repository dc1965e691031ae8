// Catalog: what a successor must know of a job, as bytes of one kept slab. Written once, when all ranks have joined (and again,
// into a fresh slab, for every incarnation); only its cells change afterwards.
//
// Layout, little-endian: 0 CatalogHeader (64 bytes) | Cell rank_state[ranks] | Cell slab_ids: journal, page, gradients[ranks],
// parameters[ranks], states[devices], exchange | then, each as u64 length and bytes padded to 8: the manifest, the plan, and for
// every rank its session (u64), its seat (u64) and its manifest; then the number of members (u64), and when there are any: this one's number, the
// secret, each member's id and address, and each rank's member (u64).
// A slab belongs to the job when its id stands here, and not before: one store replaces a journal by its fresh copy.
// Errors: DATA_LOSS with the offset when the bytes are not a whole catalogue.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/runtime/cell.h"
#include "proto/types/members.h"
#include "proto/types/plan.h"

namespace muond {

inline constexpr uint64_t kCatalogMagic = 0x3247544143444e4d;  // "MNDCATG2"

enum class CatalogRank : uint64_t {
  kJoined = 0,
  kAttached = 1,
  kLeft = 2,
  kGone = 3,
  kElsewhere = 4
};

struct CatalogHeader {
  uint64_t magic, job, bytes;
  uint32_t incarnation, ranks, devices, reserved_u32;
  uint64_t
      loading;  // a cell. 1: state was written since the last GO, perhaps not all that was meant
  uint64_t reserved[2];
};
static_assert(sizeof(CatalogHeader) == 64);

struct CatalogRecord {
  uint64_t job = 0;
  uint32_t incarnation = 0;
  uint32_t devices = 0;  // of this daemon
  std::shared_ptr<const Manifest> manifest;
  std::shared_ptr<const Plan> plan;
  std::vector<std::shared_ptr<const RankManifest>> ranks;
  std::vector<uint64_t> sessions;  // by rank; 0: of a rank at another daemon
  std::vector<uint64_t> seats;     // by rank
  JobMembers members;              // empty: a job of this daemon alone
  uint32_t self = 0;               // which of the members this daemon is
};

std::string WriteCatalog(const CatalogRecord& record);
absl::StatusOr<CatalogRecord> ReadCatalog(absl::Span<const char> bytes);
Cell& CatalogRankState(void* base, uint32_t rank);
Cell& CatalogLoading(void* base);  // CatalogHeader::loading

// The table of slab ids of a catalogue.
class CatalogSlabs {
 public:
  explicit CatalogSlabs(void* base);
  Cell& journal() const { return cells_[0]; }
  Cell& page() const { return cells_[1]; }
  Cell& gradient(uint32_t rank) const { return cells_[2 + rank]; }
  Cell& parameter(uint32_t rank) const { return cells_[2 + ranks_ + rank]; }
  Cell& state(uint32_t device) const { return cells_[2 + 2 * ranks_ + device]; }
  Cell& exchange() const { return cells_[count_ - 1]; }
  bool Names(uint64_t id) const;

 private:
  Cell* cells_;
  uint32_t ranks_, count_;
};

}  // namespace muond
