#include "server/daemon/state_service.h"

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "muond/v1/daemon.pb.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/convert.h"
#include "server/observe/log.h"

namespace muond {
namespace {

class StateReader final : public grpc::ServerWriteReactor<v1::StateChunk> {
 public:
  StateReader(DaemonCommands* commands, const v1::FetchStateRequest& request)
      : commands_(*commands) {
    auto call = FromProto(request);
    if (!call.ok()) {
      Finish(ForCaller(call.status()));
      return;
    }
    call_ = *std::move(call);
    Next();
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the caller went away"));
    Next();
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (tensor_ >= call_.tensors.size() || call_.fields.empty()) return Finish(grpc::Status::OK);
    ReadStateCommand command;
    command.session = call_.session;
    command.tensor = call_.tensors[tensor_];
    command.field = static_cast<StateName>(call_.fields[field_]);
    command.offset_bytes = offset_bytes_;
    commands_.ReadState(command, FinishOnce<StatePiece>([this](absl::StatusOr<StatePiece> piece) {
                          OnPiece(std::move(piece));
                        }));
  }

  void OnPiece(absl::StatusOr<StatePiece> piece) {
    if (!piece.ok()) return Finish(ForCaller(piece.status()));
    if (pieces_++ == 0) step_ = piece->step;
    if (piece->step != step_) {
      return Finish(ForCaller(absl::AbortedError(absl::StrCat(
          "step ", piece->step, " began while the state of step ", step_, " was fetched"))));
    }
    if (piece->data.empty() && offset_bytes_ < piece->total_bytes) {
      return Finish(ForCaller(absl::InternalError(absl::StrCat(
          "state piece at ", offset_bytes_, " of ", piece->total_bytes, " bytes is empty"))));
    }
    chunk_.Clear();
    chunk_.set_tensor(call_.tensors[tensor_]);
    chunk_.set_field(static_cast<v1::StateField>(call_.fields[field_]));
    chunk_.set_offset_bytes(offset_bytes_);
    offset_bytes_ += piece->data.size();
    chunk_.set_data(std::move(piece->data));
    if (offset_bytes_ >= piece->total_bytes) {
      offset_bytes_ = 0;
      if (++field_ == call_.fields.size()) {
        field_ = 0;
        ++tensor_;
      }
    }
    StartWrite(&chunk_);
  }

  DaemonCommands& commands_;
  FetchStateCall call_;
  v1::StateChunk chunk_;
  size_t tensor_ = 0, field_ = 0;
  uint64_t offset_bytes_ = 0, step_ = 0, pieces_ = 0;
};

class StateWriter final : public grpc::ServerReadReactor<v1::StateChunk> {
 public:
  StateWriter(DaemonCommands* commands, v1::PushStateResponse* response)
      : commands_(*commands), response_(response) {
    StartRead(&chunk_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      response_->set_bytes(bytes_);
      return Finish(grpc::Status::OK);
    }
    auto chunk = FromProto(chunk_);
    if (!chunk.ok()) return Finish(ForCaller(chunk.status()));
    if (session_ == 0) session_ = chunk->session;
    if (session_ == 0) {
      return Finish(
          ForCaller(absl::InvalidArgumentError("the first chunk of a push names no session")));
    }
    WriteStateCommand command;
    command.session = session_;
    command.tensor = chunk->tensor;
    command.field = static_cast<StateName>(chunk->field);
    command.offset_bytes = chunk->offset_bytes;
    command.data = std::move(chunk->data);
    const uint64_t size_bytes = command.data.size();
    commands_.WriteState(
        std::move(command),
        FinishOnce<std::monostate>([this, size_bytes](absl::StatusOr<std::monostate> result) {
          if (!result.ok()) return Finish(ForCaller(result.status()));
          bytes_ += size_bytes;
          StartRead(&chunk_);
        }));
  }
  void OnDone() override { delete this; }

 private:
  DaemonCommands& commands_;
  v1::PushStateResponse* const response_;
  v1::StateChunk chunk_;
  uint64_t session_ = 0, bytes_ = 0;
};

}  // namespace

grpc::Status ForCaller(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kInternal && status.code() != absl::StatusCode::kUnknown) {
    return ToGrpc(status);
  }
  Log(Severity::kError, "door.internal_error", {{"error", status}});
  return ToGrpc(absl::Status(status.code(), "internal error; the daemon's log has the detail"));
}

grpc::ServerWriteReactor<v1::StateChunk>* NewStateReader(DaemonCommands* commands,
                                                         const v1::FetchStateRequest& request) {
  return new StateReader(commands, request);
}

grpc::ServerReadReactor<v1::StateChunk>* NewStateWriter(DaemonCommands* commands,
                                                        v1::PushStateResponse* response) {
  return new StateWriter(commands, response);
}

}  // namespace muond
