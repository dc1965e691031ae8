// What DaemonClient asks between steps, over gRPC: state in and out, and the farewell.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "client/core/daemon_client.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

// Between two tries to reach a stepper that restarts; the keeper is listened to meanwhile.
constexpr absl::Duration kAskAgainAfter = absl::Milliseconds(20);
constexpr absl::Duration kWhyWithin = absl::Seconds(2);

}  // namespace

absl::Status DaemonClient::Ask(const std::function<absl::Status(DaemonStub&)>& question) {
  const absl::Time end = absl::Now() + options_.repair_timeout;
  for (;;) {
    // Not told to wait for a server: the keeper's death ends the wait here, within kAskAgainAfter.
    std::unique_ptr<DaemonStub> stub = std::move(connection_);
    if (stub == nullptr) {
      auto made = DaemonStub::Create(options_.endpoint);
      if (!made.ok()) return made.status();
      stub = *std::move(made);
    }
    absl::Status answer = question(*stub);
    if (keeps_connection_ && !absl::IsUnavailable(answer)) connection_ = std::move(stub);
    if (!absl::IsUnavailable(answer) || absl::Now() >= end) return answer;
    if (absl::Status heard = Listen(kAskAgainAfter); !heard.ok()) return heard;
  }
}

void DaemonClient::KeepConnection(bool keep) {
  keeps_connection_ = keep;
  if (!keep) connection_.reset();
}

std::string DaemonClient::AskWhyVoid(uint64_t step) const {
  const auto stub = DaemonStub::Create(options_.endpoint);
  if (!stub.ok()) return "";
  const absl::StatusOr<DaemonStatus> status = (*stub)->GetStatus(kWhyWithin);
  if (!status.ok()) return "";
  for (const JobStatus& job : status->jobs) {
    if (job.job == info_.job && job.void_step == step) return job.void_text;
  }
  return "";
}

absl::Status DaemonClient::BetweenSteps() {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (!book_->committed()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "state was asked for while step %d is not over: wait for it first", book_->step()));
}

absl::Status DaemonClient::CheckState(int32_t tensor, StateField field, uint64_t size_bytes) {
  if (absl::Status between = BetweenSteps(); !between.ok()) return between;
  return CheckStateBytes(manifest_, tensor, field, size_bytes);
}

absl::Status DaemonClient::FetchRuns(int32_t tensor, StateField field,
                                     absl::Span<const StateRun> runs, void* data) {
  const uint64_t total_bytes = *StateBytes(manifest_, tensor, field);
  FetchStateCall call;
  call.session = info_.session;
  call.tensors = {tensor};
  call.fields = {field};
  uint64_t got_bytes = 0;
  size_t next = 0;  // the first run that is not complete
  const auto take = [&](const StateChunk& chunk) -> absl::Status {
    if (chunk.tensor != tensor || chunk.field != field || chunk.offset_bytes != got_bytes ||
        chunk.data.size() > total_bytes - got_bytes) {
      return absl::InternalError(absl::StrFormat(
          "the daemon sent %d bytes at %d of tensor %d, field %d; byte %d of %d of tensor %d, "
          "field %d is next",
          chunk.data.size(), chunk.offset_bytes, chunk.tensor, static_cast<int>(chunk.field),
          got_bytes, total_bytes, tensor, static_cast<int>(field)));
    }
    const uint64_t chunk_end = got_bytes + chunk.data.size();
    for (; next < runs.size() && runs[next].tensor_offset_bytes < chunk_end; ++next) {
      const StateRun& run = runs[next];
      const uint64_t run_end = run.tensor_offset_bytes + run.size_bytes;
      const uint64_t from = std::max(run.tensor_offset_bytes, got_bytes);
      const uint64_t to = std::min(run_end, chunk_end);
      std::memcpy(
          static_cast<char*>(data) + run.shard_offset_bytes + (from - run.tensor_offset_bytes),
          chunk.data.data() + (from - got_bytes), to - from);
      if (run_end > chunk_end) break;  // the rest comes with the next chunk
    }
    got_bytes = chunk_end;
    return absl::OkStatus();
  };
  const absl::Status fetched = Ask([&](DaemonStub& stub) {
    got_bytes = 0;
    next = 0;
    return stub.FetchState(call, take, options_.repair_timeout);
  });
  if (!fetched.ok()) return fetched;
  if (got_bytes == total_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon sent %d of the %d bytes of state field %d of %s", got_bytes,
                      total_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::PushRuns(int32_t tensor, StateField field,
                                    absl::Span<const StateRun> runs, const void* data) {
  uint64_t size_bytes = 0, taken_bytes = 0, done_bytes = 0;  // done: of the run
  size_t next = 0;
  for (const StateRun& run : runs) size_bytes += run.size_bytes;
  const auto give = [&](StateChunk* chunk) {
    if (next == runs.size()) return false;
    const StateRun& run = runs[next];
    const uint64_t piece_bytes =
        std::min<uint64_t>(run.size_bytes - done_bytes, kStateChunkBytesMax);
    chunk->session = info_.session;
    chunk->tensor = tensor;
    chunk->field = field;
    chunk->offset_bytes = run.tensor_offset_bytes + done_bytes;
    chunk->data.assign(static_cast<const char*>(data) + run.shard_offset_bytes + done_bytes,
                       piece_bytes);
    done_bytes += piece_bytes;
    if (done_bytes == run.size_bytes) {
      ++next;
      done_bytes = 0;
    }
    return true;
  };
  const absl::Status pushed = Ask([&](DaemonStub& stub) {
    next = 0;
    done_bytes = 0;
    absl::StatusOr<uint64_t> taken = stub.PushState(give, options_.repair_timeout);
    if (taken.ok()) taken_bytes = *taken;
    return taken.status();
  });
  if (!pushed.ok()) return pushed;
  if (taken_bytes == size_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon took %d of the %d bytes of state field %d of %s", taken_bytes,
                      size_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::FetchState(int32_t tensor, StateField field, void* data,
                                      uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  return FetchRuns(tensor, field, {{0, 0, size_bytes}}, data);
}

absl::Status DaemonClient::PushState(int32_t tensor, StateField field, const void* data,
                                     uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  return PushRuns(tensor, field, {{0, 0, size_bytes}}, data);
}

absl::Status DaemonClient::FetchShardState(int32_t shard, StateField field, void* data,
                                           uint64_t size_bytes) {
  if (absl::Status between = BetweenSteps(); !between.ok()) return between;
  absl::Status fits = CheckShardStateBytes(manifest_, rank_, shard, field, size_bytes);
  if (!fits.ok() || size_bytes == 0) return fits;
  const int32_t tensor = rank_.shards[shard].tensor;
  return FetchRuns(tensor, field, StateRunsOf(manifest_.tensors[tensor], rank_.shards[shard]),
                   data);
}

absl::Status DaemonClient::PushShardState(int32_t shard, StateField field, const void* data,
                                          uint64_t size_bytes) {
  if (absl::Status between = BetweenSteps(); !between.ok()) return between;
  absl::Status fits = CheckShardStateBytes(manifest_, rank_, shard, field, size_bytes);
  if (!fits.ok() || size_bytes == 0) return fits;
  const int32_t tensor = rank_.shards[shard].tensor;
  return PushRuns(tensor, field, StateRunsOf(manifest_.tensors[tensor], rank_.shards[shard]), data);
}

absl::Status DaemonClient::Detach() {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  // A rank on a GPU may leave while its last step is under way: it counts.
  if (device_ != nullptr && book_->committed()) {
    if (auto over = Wait(options_.repair_timeout); !over.ok()) return over.status();
  }
  line_->Send(line_->Make(FrameType::kBye, info_.last_step));
  bool again = false;
  absl::Status left = Ask([&](DaemonStub& stub) {
    absl::Status answer = stub.Detach(info_.session, options_.repair_timeout);
    // The stepper that died had let us go, and its successor knows it.
    if (again && absl::IsNotFound(answer)) return absl::OkStatus();
    again = true;
    return answer;
  });
  detached_ = true;
  return left;
}

}  // namespace muond
