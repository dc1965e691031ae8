#include "proto/stubs/daemon_stub.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "muond/v1/daemon.grpc.pb.h"
#include "proto/stubs/caller.h"
#include "proto/types/convert.h"

namespace muond {
namespace {

// A join is answered by the daemon's clock, with the ranks that are missing; ours ends it only when the daemon says nothing.
constexpr absl::Duration kJoinMargin = absl::Seconds(3);

}  // namespace

struct DaemonStub::Impl : Caller<v1::Daemon> {};

DaemonStub::DaemonStub(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DaemonStub::~DaemonStub() = default;

absl::StatusOr<std::unique_ptr<DaemonStub>> DaemonStub::Create(std::string_view endpoint,
                                                               const StubOptions& options) {
  auto impl = std::make_unique<Impl>();
  if (absl::Status status = impl->Open(endpoint, "the daemon", options); !status.ok())
    return status;
  return std::unique_ptr<DaemonStub>(new DaemonStub(std::move(impl)));
}

const std::string& DaemonStub::endpoint() const { return impl_->peer.endpoint; }

absl::StatusOr<JoinReply> DaemonStub::Join(const JoinCall& call, absl::Duration timeout) {
  const Peer& peer = impl_->peer;
  const absl::Duration wait = timeout == absl::ZeroDuration() ? peer.options.timeout : timeout;
  v1::JoinRequest request;
  ToProto(call, &request);
  ToProto(peer.options.version, request.mutable_version());
  const int64_t wait_ms = std::max<int64_t>(1, absl::ToInt64Milliseconds(wait));
  request.set_wait_ms(
      wait_ms > std::numeric_limits<uint32_t>::max() ? 0 : static_cast<uint32_t>(wait_ms));
  grpc::ClientContext context;
  peer.Prepare(context, wait + kJoinMargin);
  v1::JoinResponse response;
  const absl::Status status = peer.Explain(impl_->stub->Join(&context, request, &response), wait);
  if (!status.ok()) return status;
  if (absl::Status status = impl_->CheckPeer(FromProto(response.version())); !status.ok())
    return status;
  return FromProto(response);
}

absl::StatusOr<AttachReply> DaemonStub::Attach(uint64_t session, absl::Duration timeout) {
  v1::AttachRequest request;
  request.set_session(session);
  v1::AttachResponse response;
  if (absl::Status status = impl_->Call(&v1::Daemon::Stub::Attach, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return FromProto(response);
}

absl::Status DaemonStub::Detach(uint64_t session, absl::Duration timeout) {
  v1::DetachRequest request;
  request.set_session(session);
  v1::DetachResponse response;
  return impl_->Call(&v1::Daemon::Stub::Detach, request, &response, timeout);
}

absl::StatusOr<Plan> DaemonStub::GetPlan(uint64_t job, uint64_t epoch, absl::Duration timeout) {
  v1::GetPlanRequest request;
  request.set_job_id(job);
  request.set_epoch(epoch);
  v1::GetPlanResponse response;
  if (absl::Status status = impl_->Call(&v1::Daemon::Stub::GetPlan, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return FromProto(response.plan());
}

absl::Status DaemonStub::FetchState(const FetchStateCall& call,
                                    absl::FunctionRef<absl::Status(const StateChunk&)> sink,
                                    absl::Duration timeout) {
  v1::FetchStateRequest request;
  ToProto(call, &request);
  grpc::ClientContext context;
  impl_->peer.Prepare(context, timeout);
  std::unique_ptr<grpc::ClientReader<v1::StateChunk>> reader =
      impl_->stub->FetchState(&context, request);
  v1::StateChunk message;
  absl::Status refused;
  while (refused.ok() && reader->Read(&message)) {
    absl::StatusOr<StateChunk> chunk = FromProto(message);
    refused = chunk.ok() ? sink(*chunk) : chunk.status();
  }
  if (!refused.ok()) {
    context.TryCancel();
    reader->Finish();
    return refused;
  }
  return impl_->peer.Explain(reader->Finish(), timeout);
}

absl::StatusOr<uint64_t> DaemonStub::PushState(absl::FunctionRef<bool(StateChunk*)> source,
                                               absl::Duration timeout) {
  grpc::ClientContext context;
  impl_->peer.Prepare(context, timeout);
  v1::PushStateResponse response;
  std::unique_ptr<grpc::ClientWriter<v1::StateChunk>> writer =
      impl_->stub->PushState(&context, &response);
  StateChunk chunk;
  v1::StateChunk message;
  while (source(&chunk)) {
    ToProto(chunk, &message);
    if (!writer->Write(message)) break;  // the daemon has ended the call: Finish says why
    chunk = StateChunk();
  }
  writer->WritesDone();
  if (absl::Status status = impl_->peer.Explain(writer->Finish(), timeout); !status.ok())
    return status;
  return response.bytes();
}

absl::StatusOr<SnapshotReply> DaemonStub::Snapshot(const SnapshotCall& call,
                                                   absl::Duration timeout) {
  v1::SnapshotRequest request;
  request.set_session(call.session);
  request.set_job(call.job);
  request.set_directory(call.directory);
  v1::SnapshotResponse response;
  if (absl::Status status = impl_->Call(&v1::Daemon::Stub::Snapshot, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return SnapshotReply{response.step(), response.manifest_path(), response.bytes()};
}

absl::StatusOr<int32_t> DaemonStub::Drain(absl::Duration wait) {
  v1::DrainRequest request;
  request.set_timeout_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(wait)));
  v1::DrainResponse response;
  const absl::Duration timeout = wait + impl_->peer.options.timeout;
  if (absl::Status status = impl_->Call(&v1::Daemon::Stub::Drain, request, &response, timeout);
      !status.ok()) {
    return status;
  }
  return response.jobs_left();
}

absl::StatusOr<DaemonStatus> DaemonStub::GetStatus(absl::Duration timeout) {
  v1::GetStatusResponse response;
  if (absl::Status status =
          impl_->Call(&v1::Daemon::Stub::GetStatus, v1::GetStatusRequest(), &response, timeout);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = impl_->CheckPeer(FromProto(response.version())); !status.ok())
    return status;
  return FromProto(response);
}

}  // namespace muond
