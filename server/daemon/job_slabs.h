// JobSlabs: the memory of one job that outlives this process: catalogue, journal, page, every rank's gradient and parameter
// slab, every device's state slab. Allocated whole or not at all; each is kept by the vault before anybody is told of it.
// Threads: the StepLoop.   Errors: RESOURCE_EXHAUSTED with byte counts; UNAVAILABLE when the keeper is gone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/runtime/backend.h"
#include "server/daemon/job_layout.h"
#include "server/daemon/slab_vault.h"

namespace muond {

struct HeldSlab {
  uint64_t id = 0;  // 0: none
  std::unique_ptr<Slab> slab;
  bool held() const { return slab != nullptr; }
  char* data() const { return static_cast<char*>(slab->data()); }
};

// 64 random bits from the operating system, never 0.
uint64_t MintId();

class JobSlabs {
 public:
  JobSlabs(uint64_t job, Backend& backend, SlabVault& vault)
      : job_(job), backend_(backend), vault_(vault) {}

  HeldSlab catalog, journal, page;
  HeldSlab exchange;                            // of a job of several daemons
  std::vector<HeldSlab> gradients, parameters;  // by rank; none of ranks elsewhere
  std::vector<HeldSlab> states;                 // by device; none where the device owns nothing

  // Writes the ids of what is there into the catalogue, then keeps it: from then on it names this job's slabs.
  absl::Status KeepCatalog(const std::string& bytes);
  // Everything but the catalogue that is not there yet. On failure what this call made is dropped again.
  absl::Status Allocate(const JobLayout& layout, absl::Span<const uint64_t> sessions);
  // A fresh page that holds what `journal` holds takes its place, in the catalogue by one store.
  absl::Status RenewJournal(uint32_t items);
  absl::Status Grant(uint32_t rank, uint64_t session);

  // What a predecessor kept: the catalogue first, then the rest; what that does not name is dropped.
  absl::Status Import(KeptSlab kept);
  // Whether all that Allocate makes is there, in the sizes of the layout.
  bool Complete(const JobLayout& layout) const;
  bool HasState(const JobLayout& layout) const;  // the same without gradients

  void Drop(HeldSlab& slab);
  void DropGradients();
  void DropAll();
  uint64_t total_bytes() const;
  uint64_t state_bytes() const;

 private:
  // The device in whose memory the rank's shards lie.
  absl::StatusOr<Device*> DeviceOfRank(const RankManifest& rank) const;
  absl::Status Hold(absl::StatusOr<std::unique_ptr<Slab>> slab, SlabInfo info, HeldSlab* to);
  void WriteIds();  // into the catalogue, where there is one

  uint64_t job_;
  Backend& backend_;
  SlabVault& vault_;
};

}  // namespace muond
