#include "server/daemon/job_slabs.h"

#include <sys/random.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/daemon/catalog.h"
#include "server/observe/fail_point.h"
#include "server/observe/log.h"
#include "server/state/journal.h"

namespace muond {

uint64_t MintId() {
  uint64_t id = 0;
  while (id == 0) MUOND_CHECK(::getrandom(&id, sizeof id, 0) == sizeof id);
  return id;
}

absl::Status JobSlabs::Hold(absl::StatusOr<std::unique_ptr<Slab>> slab, SlabInfo info,
                            HeldSlab* to) {
  if (!slab.ok()) return slab.status();
  info.slab = MintId();
  info.size_bytes = (*slab)->size_bytes();
  info.job = job_;
  if (absl::Status status = vault_.Keep(info, (*slab)->descriptor()); !status.ok()) return status;
  *to = {info.slab, *std::move(slab)};
  return absl::OkStatus();
}

absl::StatusOr<Device*> JobSlabs::DeviceOfRank(const RankManifest& rank) const {
  const auto& devices = backend_.devices();
  const bool gpus = devices.front()->info().kind == DeviceKind::kCuda;
  if (rank.device_uuid.empty()) {
    if (!gpus) return devices[static_cast<size_t>(rank.rank) % devices.size()].get();
    return absl::FailedPreconditionError(
        absl::StrFormat("rank %d has its parameters in host memory; this daemon serves %d GPUs "
                        "(run one with --backend cpu)",
                        rank.rank, devices.size()));
  }
  std::string known;
  for (const auto& device : devices) {
    if (device->info().uuid == rank.device_uuid) return device.get();
    absl::StrAppend(&known, known.empty() ? "" : ", ", device->info().uuid);
  }
  return absl::FailedPreconditionError(absl::StrFormat(
      "rank %d has its parameters on %s; this daemon has %s", rank.rank, rank.device_uuid, known));
}

void JobSlabs::WriteIds() {
  if (!catalog.held()) return;
  const CatalogSlabs table(catalog.data());
  const auto write = [](Cell& cell, const HeldSlab& slab) {
    cell.store(slab.id, std::memory_order_release);
  };
  write(table.journal(), journal);
  write(table.page(), page);
  for (uint32_t rank = 0; rank < gradients.size(); ++rank)
    write(table.gradient(rank), gradients[rank]);
  for (uint32_t rank = 0; rank < parameters.size(); ++rank)
    write(table.parameter(rank), parameters[rank]);
  for (uint32_t device = 0; device < states.size(); ++device)
    write(table.state(device), states[device]);
  write(table.exchange(), exchange);
}

absl::Status JobSlabs::KeepCatalog(const std::string& bytes) {
  SlabInfo info;
  info.kind = SlabKind::kCatalog;
  info.label = absl::StrFormat("catalog %x", job_);
  auto slab = CreateHostSlab(info.label, bytes.size());
  if (!slab.ok()) return slab.status();
  std::memcpy((*slab)->data(), bytes.data(), bytes.size());
  catalog = {0, *std::move(slab)};
  WriteIds();
  absl::StatusOr<std::unique_ptr<Slab>> written = std::move(catalog.slab);
  return Hold(std::move(written), info, &catalog);
}

absl::Status JobSlabs::RenewJournal(uint32_t items) {
  SlabInfo info;
  info.kind = SlabKind::kJournal;
  info.label = absl::StrFormat("journal %x", job_);
  auto slab = CreateHostSlab(info.label, Journal::SizeBytes(items));
  if (!slab.ok()) return slab.status();
  Journal((*slab)->data(), items).CopyFrom(Journal(journal.data(), items));
  HeldSlab older = std::exchange(journal, {});
  if (absl::Status status = Hold(std::move(slab), info, &journal); !status.ok()) {
    journal = std::move(older);
    return status;
  }
  WriteIds();
  FailPoint("recover_mid");
  Drop(older);
  return absl::OkStatus();
}

absl::Status JobSlabs::Allocate(const JobLayout& layout, absl::Span<const uint64_t> sessions) {
  const auto make = [&]() -> absl::Status {
    SlabInfo info;
    if (!journal.held()) {
      info = {0, SlabKind::kJournal, 0, 0, 0, 0, kHostDevice, absl::StrFormat("journal %x", job_)};
      if (absl::Status status = Hold(
              CreateHostSlab(info.label, Journal::SizeBytes(layout.page.items)), info, &journal);
          !status.ok()) {
        return status;
      }
    }
    states.resize(layout.device_items.size());
    for (size_t d = 0; d < states.size(); ++d) {
      const uint64_t bytes = layout.state.device_bytes(static_cast<int>(d));
      if (states[d].held() || bytes == 0) continue;
      info = {0,
              SlabKind::kState,
              0,
              0,
              0,
              0,
              static_cast<uint32_t>(d),
              absl::StrFormat("state %x device %d", job_, d)};
      if (absl::Status status =
              Hold(backend_.devices()[d]->CreateSlab(info.label, bytes), info, &states[d]);
          !status.ok()) {
        return status;
      }
    }
    if (!page.held()) {
      info = {0, SlabKind::kPage, 0, 0, 0, 0, kHostDevice, absl::StrFormat("page %x", job_)};
      if (absl::Status status = Hold(CreateHostSlab(info.label, layout.page_bytes), info, &page);
          !status.ok())
        return status;
    }
    if (!exchange.held() && !layout.view.alone()) {
      info = {
          0, SlabKind::kExchange, 0, 0, 0, 0, kHostDevice, absl::StrFormat("exchange %x", job_)};
      if (absl::Status status =
              Hold(CreateHostSlab(info.label, layout.exchange.bytes()), info, &exchange);
          !status.ok())
        return status;
    }
    gradients.resize(layout.ranks.size());
    parameters.resize(layout.ranks.size());
    for (uint32_t rank = 0; rank < layout.ranks.size(); ++rank) {
      if (!layout.view.local(rank)) continue;
      const absl::StatusOr<Device*> device = DeviceOfRank(*layout.ranks[rank]);
      if (!device.ok()) return device.status();
      const uint32_t ordinal = static_cast<uint32_t>((*device)->info().ordinal);
      const RankLayout& sizes = layout.rank_layouts[rank];
      const auto hold = [&](HeldSlab& slab, SlabKind kind, const char* what, uint64_t bytes) {
        if (slab.held()) return absl::OkStatus();
        info = {0,
                kind,
                0,
                0,
                sessions[rank],
                rank,
                ordinal,
                absl::StrFormat("%s %x rank %d", what, job_, rank)};
        return Hold((*device)->CreateSlab(info.label, bytes), info, &slab);
      };
      absl::Status status =
          hold(gradients[rank], SlabKind::kGradient, "gradient", sizes.gradient_bytes);
      if (status.ok()) {
        status = hold(parameters[rank], SlabKind::kParameter, "parameter", sizes.parameter_bytes);
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const uint64_t journal_id = journal.id;
  absl::Status status = make();
  if (status.ok()) {
    WriteIds();
    return status;
  }
  // A fresh job starts over from nothing; an adopted one comes with its journal, and keeps what it came with.
  if (journal_id == 0) {
    for (HeldSlab& slab : states) Drop(slab);
    for (HeldSlab& slab : parameters) Drop(slab);
    Drop(journal);
    Drop(exchange);
  }
  DropGradients();
  Drop(page);
  return absl::Status(status.code(),
                      absl::StrFormat(
                          "job needs %d bytes of state, %d of gradients and parameters: %s",
                          [&layout] {
                            uint64_t bytes = 0;
                            for (size_t d = 0; d < layout.device_items.size(); ++d) {
                              bytes += layout.state.device_bytes(static_cast<int>(d));
                            }
                            return bytes;
                          }(),
                          [&layout] {
                            uint64_t bytes = 0;
                            for (const RankLayout& rank : layout.rank_layouts) {
                              bytes += rank.gradient_bytes + rank.parameter_bytes;
                            }
                            return bytes;
                          }(),
                          status.message()));
}

absl::Status JobSlabs::Grant(uint32_t rank, uint64_t session) {
  for (uint64_t slab : {page.id, gradients[rank].id, parameters[rank].id}) {
    if (absl::Status status = vault_.Grant(session, slab); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status JobSlabs::Import(KeptSlab kept) {
  const SlabInfo& info = kept.info;
  if (info.kind != SlabKind::kCatalog && !CatalogSlabs(catalog.data()).Names(info.slab))
    return vault_.Drop(info.slab);
  const auto at = [](std::vector<HeldSlab>& slabs, uint32_t index) -> HeldSlab& {
    if (slabs.size() <= index) slabs.resize(index + 1);
    return slabs[index];
  };
  HeldSlab* to = nullptr;
  const bool on_device = info.kind == SlabKind::kGradient || info.kind == SlabKind::kParameter ||
                         info.kind == SlabKind::kState;
  if (on_device && info.device >= backend_.devices().size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("kept slab '%s' is of device %d, there are %d", info.label, info.device,
                        backend_.devices().size()));
  }
  switch (info.kind) {
    case SlabKind::kCatalog:
      to = &catalog;
      break;
    case SlabKind::kJournal:
      to = &journal;
      break;
    case SlabKind::kPage:
      to = &page;
      break;
    case SlabKind::kGradient:
      to = &at(gradients, info.rank);
      break;
    case SlabKind::kParameter:
      to = &at(parameters, info.rank);
      break;
    case SlabKind::kState:
      to = &at(states, info.device);
      break;
    case SlabKind::kExchange:
      to = &exchange;
      break;
  }
  const int descriptor = kept.descriptor.Release();
  auto slab = on_device ? backend_.devices()[info.device]->ImportSlab(descriptor, info.size_bytes)
                        : ImportHostSlab(descriptor, info.size_bytes);
  if (!slab.ok()) return slab.status();
  *to = {info.slab, *std::move(slab)};
  return absl::OkStatus();
}

namespace {
bool Fits(const HeldSlab& slab, uint64_t bytes) {
  return slab.held() && slab.slab->size_bytes() >= bytes;
}
}  // namespace

bool JobSlabs::HasState(const JobLayout& layout) const {
  if (!Fits(journal, Journal::SizeBytes(layout.page.items)) || !Fits(page, layout.page_bytes))
    return false;
  if (!layout.view.alone() && !Fits(exchange, layout.exchange.bytes())) return false;
  // Slabs were imported up to the last rank that has one.
  for (uint32_t rank = 0; rank < layout.ranks.size(); ++rank) {
    if (!layout.view.local(rank)) continue;
    if (rank >= parameters.size()) return false;
    if (!Fits(parameters[rank], layout.rank_layouts[rank].parameter_bytes)) return false;
  }
  for (size_t d = 0; d < layout.device_items.size(); ++d) {
    const uint64_t bytes = layout.state.device_bytes(static_cast<int>(d));
    if (bytes > 0 && (d >= states.size() || !Fits(states[d], bytes))) return false;
  }
  return true;
}

bool JobSlabs::Complete(const JobLayout& layout) const {
  if (!HasState(layout)) return false;
  for (uint32_t rank = 0; rank < layout.ranks.size(); ++rank) {
    if (!layout.view.local(rank)) continue;
    if (rank >= gradients.size()) return false;
    if (!Fits(gradients[rank], layout.rank_layouts[rank].gradient_bytes)) return false;
  }
  return true;
}

void JobSlabs::Drop(HeldSlab& slab) {
  if (slab.id == 0) return;
  // A keeper that is gone keeps nothing, and this process goes with it.
  (void)vault_.Drop(slab.id);
  slab = {};
}

void JobSlabs::DropGradients() {
  for (HeldSlab& slab : gradients) Drop(slab);
}

void JobSlabs::DropAll() {
  // The catalogue goes first: a successor that finds none drops the rest.
  Drop(catalog);
  Drop(journal);
  Drop(page);
  DropGradients();
  for (HeldSlab& slab : parameters) Drop(slab);
  for (HeldSlab& slab : states) Drop(slab);
  Drop(exchange);
}

uint64_t JobSlabs::state_bytes() const {
  uint64_t bytes = 0;
  for (const HeldSlab& slab : states) bytes += slab.held() ? slab.slab->size_bytes() : 0;
  return bytes;
}

uint64_t JobSlabs::total_bytes() const {
  uint64_t bytes = state_bytes();
  for (const auto* slabs : {&gradients, &parameters}) {
    for (const HeldSlab& slab : *slabs) bytes += slab.held() ? slab.slab->size_bytes() : 0;
  }
  for (const HeldSlab* slab : {&catalog, &journal, &page, &exchange})
    bytes += slab->held() ? slab->slab->size_bytes() : 0;
  return bytes;
}

}  // namespace muond
