#include "server/daemon/catalog.h"

#include <cstddef>
#include <cstring>

#include "absl/strings/str_format.h"
#include "proto/types/convert.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

void PutNumber(uint64_t number, std::string* out) {
  out->append(reinterpret_cast<const char*>(&number), sizeof number);
}

void PutBytes(const std::string& bytes, std::string* out) {
  PutNumber(bytes.size(), out);
  out->append(bytes);
  out->append((8 - bytes.size() % 8) % 8, '\0');
}

class Reader {
 public:
  Reader(absl::Span<const char> bytes, size_t at) : bytes_(bytes), at_(at) {}
  absl::Status Number(uint64_t* number) {
    if (bytes_.size() - at_ < sizeof *number) return Short();
    std::memcpy(number, bytes_.data() + at_, sizeof *number);
    at_ += sizeof *number;
    return absl::OkStatus();
  }
  absl::Status Bytes(std::string_view* view) {
    uint64_t size = 0;
    if (absl::Status status = Number(&size); !status.ok()) return status;
    if (size > bytes_.size() - at_) return Short();
    *view = {bytes_.data() + at_, size};
    at_ += std::min<size_t>(bytes_.size() - at_, (size + 7) / 8 * 8);
    return absl::OkStatus();
  }

 private:
  absl::Status Short() const {
    return absl::DataLossError(
        absl::StrFormat("catalogue of %d bytes ends at offset %d", bytes_.size(), at_));
  }
  absl::Span<const char> bytes_;
  size_t at_;
};

absl::Status ReadMembers(Reader& reader, CatalogRecord* record) {
  uint64_t count = 0, number = 0;
  if (absl::Status status = reader.Number(&count); !status.ok() || count == 0) return status;
  if (absl::Status status = reader.Number(&number); !status.ok()) return status;
  record->self = static_cast<uint32_t>(number);
  std::string_view text;
  if (absl::Status status = reader.Bytes(&text); !status.ok()) return status;
  JobMembers& members = record->members;
  members.secret = std::string(text);
  for (uint64_t i = 0; i < count; ++i) {
    JobMember& member = members.members.emplace_back();
    for (std::string* to : {&member.daemon, &member.shard_address}) {
      if (absl::Status status = reader.Bytes(&text); !status.ok()) return status;
      *to = std::string(text);
    }
  }
  for (size_t rank = 0; rank < record->ranks.size(); ++rank) {
    if (absl::Status status = reader.Number(&number); !status.ok()) return status;
    members.member_of_rank.push_back(static_cast<int32_t>(number));
  }
  if (record->self >= count)
    return absl::DataLossError(absl::StrFormat("catalogue: member %d of %d", record->self, count));
  return Validate(members, record->ranks.size());
}

uint64_t CellsOf(uint64_t ranks, uint64_t devices) { return ranks + 2 + 2 * ranks + devices + 1; }

}  // namespace

CatalogSlabs::CatalogSlabs(void* base) {
  const auto* header = static_cast<const CatalogHeader*>(base);
  ranks_ = header->ranks;
  count_ = 2 + 2 * ranks_ + header->devices + 1;
  cells_ = &CatalogRankState(base, ranks_);
}

bool CatalogSlabs::Names(uint64_t id) const {
  for (uint32_t i = 0; i < count_; ++i) {
    if (cells_[i].load(std::memory_order_acquire) == id) return true;
  }
  return false;
}

Cell& CatalogRankState(void* base, uint32_t rank) {
  return reinterpret_cast<Cell*>(static_cast<char*>(base) + sizeof(CatalogHeader))[rank];
}

Cell& CatalogLoading(void* base) {
  return *reinterpret_cast<Cell*>(static_cast<char*>(base) + offsetof(CatalogHeader, loading));
}

std::string WriteCatalog(const CatalogRecord& record) {
  std::string out(
      sizeof(CatalogHeader) + CellsOf(record.ranks.size(), record.devices) * sizeof(Cell), '\0');
  PutBytes(Serialize(*record.manifest), &out);
  PutBytes(Serialize(*record.plan), &out);
  for (size_t rank = 0; rank < record.ranks.size(); ++rank) {
    PutNumber(record.sessions[rank], &out);
    PutNumber(record.seats[rank], &out);
    PutBytes(Serialize(*record.ranks[rank]), &out);
  }
  const JobMembers& members = record.members;
  PutNumber(members.members.size(), &out);
  if (!members.members.empty()) {
    PutNumber(record.self, &out);
    PutBytes(members.secret, &out);
    for (const JobMember& member : members.members) {
      PutBytes(member.daemon, &out);
      PutBytes(member.shard_address, &out);
    }
    for (size_t rank = 0; rank < record.ranks.size(); ++rank) {
      const uint32_t member = static_cast<uint32_t>(members.member_of_rank[rank]);
      PutNumber(member, &out);
      if (member == record.self) continue;
      const uint64_t elsewhere = static_cast<uint64_t>(CatalogRank::kElsewhere);
      std::memcpy(out.data() + sizeof(CatalogHeader) + rank * sizeof(Cell), &elsewhere,
                  sizeof elsewhere);
    }
  }
  const CatalogHeader header{kCatalogMagic,
                             record.job,
                             out.size(),
                             record.incarnation,
                             static_cast<uint32_t>(record.ranks.size()),
                             record.devices,
                             0,
                             0,
                             {}};
  std::memcpy(out.data(), &header, sizeof header);
  return out;
}

absl::StatusOr<CatalogRecord> ReadCatalog(absl::Span<const char> bytes) {
  CatalogHeader header;
  if (bytes.size() < sizeof header)
    return absl::DataLossError(absl::StrFormat("catalogue of %d bytes", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.magic != kCatalogMagic || header.bytes > bytes.size() || header.ranks > kRanksMax ||
      header.devices > kDevicesPerDaemonMax ||
      header.bytes < sizeof header + CellsOf(header.ranks, header.devices) * sizeof(Cell)) {
    return absl::DataLossError(
        absl::StrFormat("catalogue of %d bytes: magic %x, %d bytes, %d ranks", bytes.size(),
                        header.magic, header.bytes, header.ranks));
  }
  CatalogRecord record;
  record.job = header.job;
  record.incarnation = header.incarnation;
  record.devices = header.devices;
  Reader reader(bytes.first(header.bytes),
                sizeof header + CellsOf(header.ranks, header.devices) * sizeof(Cell));
  std::string_view text;
  if (absl::Status status = reader.Bytes(&text); !status.ok()) return status;
  auto manifest = ParseManifest(text);
  if (!manifest.ok()) return manifest.status();
  record.manifest = std::make_shared<const Manifest>(*std::move(manifest));
  if (absl::Status status = reader.Bytes(&text); !status.ok()) return status;
  auto plan = ParsePlan(text);
  if (!plan.ok()) return plan.status();
  record.plan = std::make_shared<const Plan>(*std::move(plan));
  for (uint32_t rank = 0; rank < header.ranks; ++rank) {
    uint64_t session = 0, seat = 0;
    if (absl::Status status = reader.Number(&session); !status.ok()) return status;
    if (absl::Status status = reader.Number(&seat); !status.ok()) return status;
    if (absl::Status status = reader.Bytes(&text); !status.ok()) return status;
    auto ranks = ParseRankManifest(text);
    if (!ranks.ok()) return ranks.status();
    record.sessions.push_back(session);
    record.seats.push_back(seat);
    record.ranks.push_back(std::make_shared<const RankManifest>(*std::move(ranks)));
  }
  if (absl::Status status = ReadMembers(reader, &record); !status.ok()) return status;
  return record;
}

}  // namespace muond
