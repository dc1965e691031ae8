#include "server/daemon/snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "proto/carrier/ipc/unique_fd.h"
#include "server/daemon/tensor_state.h"

namespace muond {
namespace {

absl::Status FromErrno(const std::string& what) {
  const int error = errno;
  const std::string text = absl::StrFormat("%s: %s", what, std::strerror(error));
  return error == ENOENT ? absl::NotFoundError(text) : absl::UnavailableError(text);
}

// A file that appears whole or not at all.
class DurableFile {
 public:
  static absl::StatusOr<DurableFile> Create(const std::string& directory, const std::string& name) {
    DurableFile file;
    file.directory_ = directory;
    file.path_ = directory + "/" + name;
    file.temporary_ = directory + "/." + name + ".part";
    file.fd_ =
        UniqueFd(::open(file.temporary_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600));
    if (!file.fd_.valid()) return FromErrno("open " + file.temporary_);
    return file;
  }
  absl::Status Write(absl::string_view data) {
    while (!data.empty()) {
      const ssize_t written = ::write(fd_.get(), data.data(), data.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return FromErrno("write " + temporary_);
      data.remove_prefix(static_cast<size_t>(written));
      bytes_ += static_cast<uint64_t>(written);
    }
    return absl::OkStatus();
  }
  absl::Status Commit() {
    if (::fsync(fd_.get()) != 0) return FromErrno("fsync " + temporary_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) return FromErrno("rename " + temporary_);
    UniqueFd directory(::open(directory_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid() || ::fsync(directory.get()) != 0)
      return FromErrno("fsync " + directory_);
    return absl::OkStatus();
  }
  void Abandon() { ::unlink(temporary_.c_str()); }
  uint64_t bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  std::string directory_, path_, temporary_;
  UniqueFd fd_;
  uint64_t bytes_ = 0;
};

struct Entry {
  int32_t tensor = 0;
  StateName field = StateName::kParameter;
  std::string name, type, shape;
  uint64_t bytes = 0;
};

std::string JsonText(absl::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += absl::StrFormat("\\u%04x", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

const char* SafetensorsType(DType type) {
  return type == DType::kFloat32 ? "F32" : type == DType::kBFloat16 ? "BF16" : "F16";
}

std::vector<Entry> EntriesOf(const Manifest& manifest) {
  std::vector<Entry> entries;
  for (size_t t = 0; t < manifest.tensors.size(); ++t) {
    const TensorSpec& tensor = manifest.tensors[t];
    const std::string shape = "[" + absl::StrJoin(tensor.shape, ",") + "]";
    const uint64_t elements = static_cast<uint64_t>(ElementsOf(tensor));
    const auto add = [&](StateName field, const char* suffix, const char* type,
                         const std::string& dims, uint64_t bytes) {
      entries.push_back(
          {static_cast<int32_t>(t), field, absl::StrCat(tensor.name, suffix), type, dims, bytes});
    };
    add(StateName::kParameter, "", SafetensorsType(tensor.parameter_type), shape,
        elements * SizeOf(tensor.parameter_type));
    if (manifest.groups[tensor.group].rule == Rule::kMuon) {
      add(StateName::kMomentum, ".momentum_buffer", "F32", shape, elements * 4);
    } else {
      add(StateName::kExpAvg, ".exp_avg", "F32", shape, elements * 4);
      add(StateName::kExpAvgSq, ".exp_avg_sq", "F32", shape, elements * 4);
      add(StateName::kStep, ".step", "F64", "[]", 8);
    }
  }
  return entries;
}

// The format's own header: u64 length, then JSON, padded with spaces so that data starts at a multiple of 8.
std::string HeaderOf(const std::vector<Entry>& entries, const Job& job) {
  std::string json =
      absl::StrFormat("{\"__metadata__\":{\"job\":%s,\"step\":\"%d\",\"format\":\"muond 1\"}",
                      JsonText(job.name()), job.verdict_step());
  uint64_t at = 0;
  for (const Entry& entry : entries) {
    absl::StrAppendFormat(&json, ",%s:{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%d,%d]}",
                          JsonText(entry.name), entry.type, entry.shape, at, at + entry.bytes);
    at += entry.bytes;
  }
  json += "}";
  json.append((8 - json.size() % 8) % 8, ' ');
  const uint64_t size = json.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + json;
}

absl::Status WriteEntries(DurableFile& file, const std::vector<Entry>& entries,
                          TensorState& state) {
  for (const Entry& entry : entries) {
    for (uint64_t at = 0; at < entry.bytes;) {
      auto piece = state.Read(entry.tensor, entry.field, at, uint64_t{16} << 20);
      if (!piece.ok()) return piece.status();
      if (absl::Status status = file.Write(*piece); !status.ok()) return status;
      at += piece->size();
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SnapshotTaken> WriteSnapshot(Job& job, std::vector<DeviceRoom>& devices,
                                            const std::string& directory) {
  if (directory.empty() || directory.front() != '/') {
    return absl::InvalidArgumentError(
        absl::StrFormat("snapshot directory '%s' is not an absolute path", directory));
  }
  const std::string base = absl::StrFormat("step-%d", job.verdict_step());
  auto data = DurableFile::Create(directory, base + ".safetensors");
  if (!data.ok()) return data.status();
  const std::vector<Entry> entries = EntriesOf(*job.layout().manifest);
  TensorState state(job, devices);
  absl::Status status = data->Write(HeaderOf(entries, job));
  if (status.ok()) status = WriteEntries(*data, entries, state);
  if (status.ok()) status = data->Commit();
  if (!status.ok()) {
    data->Abandon();
    return status;
  }
  auto manifest = DurableFile::Create(directory, base + ".json");
  if (!manifest.ok()) return manifest.status();
  status = manifest->Write(absl::StrFormat(
      "{\"job\": %s, \"step\": %d, \"file\": \"%s.safetensors\", \"bytes\": %d, \"tensors\": %d}\n",
      JsonText(job.name()), job.verdict_step(), base, data->bytes(), entries.size()));
  if (status.ok()) status = manifest->Commit();
  if (!status.ok()) {
    manifest->Abandon();
    return status;
  }
  return SnapshotTaken{job.verdict_step(), manifest->path(), data->bytes()};
}

}  // namespace muond
