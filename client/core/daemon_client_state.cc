// What DaemonClient asks between steps, over gRPC: state in and out, and the farewell.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "client/core/daemon_client.h"
#include "proto/stubs/daemon_stub.h"
#include "proto/types/limits.h"

namespace muond {
namespace {

absl::StatusOr<std::unique_ptr<DaemonStub>> Connect(const AttachOptions& options) {
  StubOptions stub_options;
  stub_options.wait_for_ready = true;  // a stepper that restarts
  stub_options.timeout = options.repair_timeout;
  return DaemonStub::Create(options.endpoint, stub_options);
}

}  // namespace

absl::Status DaemonClient::CheckState(int32_t tensor, StateField field, uint64_t size_bytes) {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  if (book_->committed()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "state was asked for while step %d is not over: wait for it first", book_->step()));
  }
  absl::StatusOr<uint64_t> wanted = StateBytes(manifest_, tensor, field);
  if (!wanted.ok()) return wanted.status();
  if (*wanted == size_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("state field %d of %s has %d bytes, %d were given", static_cast<int>(field),
                      manifest_.tensors[tensor].name, *wanted, size_bytes));
}

absl::Status DaemonClient::FetchState(int32_t tensor, StateField field, void* data,
                                      uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  FetchStateCall call;
  call.session = info_.session;
  call.tensors = {tensor};
  call.fields = {field};
  uint64_t got_bytes = 0;
  const absl::Status fetched = (*stub)->FetchState(
      call,
      [&](const StateChunk& chunk) -> absl::Status {
        if (chunk.tensor != tensor || chunk.field != field || chunk.offset_bytes != got_bytes ||
            chunk.data.size() > size_bytes - got_bytes) {
          return absl::InternalError(absl::StrFormat(
              "the daemon sent %d bytes at %d of tensor %d, field %d; byte %d of %d of tensor %d, "
              "field %d is next",
              chunk.data.size(), chunk.offset_bytes, chunk.tensor, static_cast<int>(chunk.field),
              got_bytes, size_bytes, tensor, static_cast<int>(field)));
        }
        std::memcpy(static_cast<char*>(data) + got_bytes, chunk.data.data(), chunk.data.size());
        got_bytes += chunk.data.size();
        return absl::OkStatus();
      },
      options_.repair_timeout);
  if (!fetched.ok()) return fetched;
  if (got_bytes == size_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon sent %d of the %d bytes of state field %d of %s", got_bytes,
                      size_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::PushState(int32_t tensor, StateField field, const void* data,
                                     uint64_t size_bytes) {
  if (absl::Status fits = CheckState(tensor, field, size_bytes); !fits.ok()) return fits;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  uint64_t sent_bytes = 0;
  absl::StatusOr<uint64_t> taken = (*stub)->PushState(
      [&](StateChunk* chunk) {
        if (sent_bytes == size_bytes) return false;
        const uint64_t piece_bytes =
            std::min<uint64_t>(size_bytes - sent_bytes, kStateChunkBytesMax);
        chunk->session = info_.session;
        chunk->tensor = tensor;
        chunk->field = field;
        chunk->offset_bytes = sent_bytes;
        chunk->data.assign(static_cast<const char*>(data) + sent_bytes, piece_bytes);
        sent_bytes += piece_bytes;
        return true;
      },
      options_.repair_timeout);
  if (!taken.ok()) return taken.status();
  if (*taken == size_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("the daemon took %d of the %d bytes of state field %d of %s", *taken,
                      size_bytes, static_cast<int>(field), manifest_.tensors[tensor].name));
}

absl::Status DaemonClient::Detach() {
  if (absl::Status alive = Alive(); !alive.ok()) return alive;
  absl::StatusOr<std::unique_ptr<DaemonStub>> stub = Connect(options_);
  if (!stub.ok()) return stub.status();
  line_->Send(line_->Make(FrameType::kBye, info_.last_step));
  const absl::Status left = (*stub)->Detach(info_.session, options_.repair_timeout);
  detached_ = true;
  return left;
}

}  // namespace muond
