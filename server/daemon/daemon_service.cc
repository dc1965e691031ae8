#include "server/daemon/daemon_service.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "muond/v1/daemon.grpc.pb.h"
#include "proto/stubs/credentials.h"
#include "proto/stubs/grpc_status.h"
#include "proto/types/convert.h"
#include "proto/types/limits.h"
#include "server/daemon/state_service.h"
#include "server/daemon/status_convert.h"
#include "server/observe/log.h"

namespace muond {
namespace {

// The loop's own deadline comes before the caller's, so that the caller reads which ranks are missing.
constexpr absl::Duration kDeadlineMargin = absl::Milliseconds(300);
constexpr absl::Duration kDrainMax = absl::Hours(24);

// A unary call that some other thread finishes.
class Call : public grpc::ServerUnaryReactor {
 public:
  void OnDone() override { delete this; }
};

class JoinCallReactor : public Call {
 public:
  JoinCallReactor(DaemonCommands* commands, uint64_t ticket)
      : commands_(commands), ticket_(ticket) {}
  void OnCancel() override { commands_->CancelJoin(ticket_); }

 private:
  DaemonCommands* const commands_;
  const uint64_t ticket_;
};

class DaemonServiceImpl final : public v1::Daemon::CallbackService {
 public:
  DaemonServiceImpl(const GrpcDoorOptions& options, std::function<void()> on_drain)
      : options_(options), commands_(*options.commands), on_drain_(std::move(on_drain)) {}

  grpc::ServerUnaryReactor* Join(grpc::CallbackServerContext* context,
                                 const v1::JoinRequest* request,
                                 v1::JoinResponse* response) override {
    const uint64_t ticket = next_ticket_.fetch_add(1);
    auto* call = new JoinCallReactor(&commands_, ticket);
    if (auto status = CheckVersion(FromProto(request->version()), "the client"); !status.ok()) {
      return Refuse(call, status);
    }
    auto asked = FromProto(*request);
    if (!asked.ok()) return Refuse(call, asked.status());
    JoinCommand command;
    command.ticket = ticket;
    command.manifest = std::make_shared<const Manifest>(std::move(asked->manifest));
    command.rank = std::make_shared<const RankManifest>(std::move(asked->rank));
    command.resume = static_cast<ResumeMode>(asked->resume);
    command.token = std::move(asked->token);
    command.seat = asked->seat;
    command.attempt = asked->attempt;
    const absl::Time now = absl::Now();
    command.deadline = std::min(now + options_.join_timeout,
                                absl::FromChrono(context->deadline()) - kDeadlineMargin);
    if (asked->wait_ms > 0) {
      command.deadline = std::min(command.deadline, now + absl::Milliseconds(asked->wait_ms));
    }
    commands_.Join(std::move(command), Answer<Joined>(call, [response](const Joined& joined) {
                     JoinReply reply;
                     reply.job = joined.job_id;
                     reply.session = joined.session;
                     reply.incarnation = joined.incarnation;
                     reply.epoch = joined.epoch;
                     reply.last_step = joined.last_step;
                     ToProto(reply, response);
                   }));
    return call;
  }

  grpc::ServerUnaryReactor* Attach(grpc::CallbackServerContext*, const v1::AttachRequest* request,
                                   v1::AttachResponse* response) override {
    auto* call = new Call;
    commands_.Attach(request->session(),
                     Answer<Attached>(call, [this, response](const Attached& attached) {
                       AttachReply reply;
                       reply.keeper_socket = options_.keeper_socket;
                       reply.frame_socket = options_.frame_socket;
                       reply.gradient_slab_bytes = attached.gradient_slab_bytes;
                       reply.parameter_slab_bytes = attached.parameter_slab_bytes;
                       reply.page_bytes = attached.page_bytes;
                       for (const PlacedBlock& b : attached.blocks) {
                         reply.shards.push_back(
                             {b.block, b.gradient_offset, b.parameter_offset, b.push_gradient});
                       }
                       for (const PlannedBucket& b : attached.buckets)
                         reply.buckets.push_back({b.tensors, b.items});
                       reply.items = attached.items;
                       reply.epoch = attached.epoch;
                       reply.page_blocks_max = attached.page_blocks_max;
                       ToProto(reply, response);
                     }));
    return call;
  }

  grpc::ServerUnaryReactor* Detach(grpc::CallbackServerContext*, const v1::DetachRequest* request,
                                   v1::DetachResponse*) override {
    auto* call = new Call;
    commands_.Detach(request->session(), Answer<std::monostate>(call, [](std::monostate) {}));
    return call;
  }

  grpc::ServerUnaryReactor* GetPlan(grpc::CallbackServerContext*, const v1::GetPlanRequest* request,
                                    v1::GetPlanResponse* response) override {
    auto* call = new Call;
    commands_.GetPlan(request->job_id(), request->epoch(),
                      Answer<std::shared_ptr<const Plan>>(
                          call, [response](const std::shared_ptr<const Plan>& plan) {
                            ToProto(*plan, response->mutable_plan());
                          }));
    return call;
  }

  grpc::ServerWriteReactor<v1::StateChunk>* FetchState(
      grpc::CallbackServerContext*, const v1::FetchStateRequest* request) override {
    return NewStateReader(&commands_, *request);
  }

  grpc::ServerReadReactor<v1::StateChunk>* PushState(grpc::CallbackServerContext*,
                                                     v1::PushStateResponse* response) override {
    return NewStateWriter(&commands_, response);
  }

  grpc::ServerUnaryReactor* Snapshot(grpc::CallbackServerContext*,
                                     const v1::SnapshotRequest* request,
                                     v1::SnapshotResponse* response) override {
    auto* call = new Call;
    if (request->directory().empty() ||
        request->directory().size() > static_cast<size_t>(kTextBytesMax) ||
        request->job().size() > static_cast<size_t>(kJobNameBytesMax)) {
      return Refuse(call, absl::InvalidArgumentError(absl::StrCat(
                              "snapshot: directory of ", request->directory().size(),
                              " bytes (1 to ", kTextBytesMax, "), job name of ",
                              request->job().size(), " bytes (at most ", kJobNameBytesMax, ")")));
    }
    commands_.Snapshot({request->session(), request->job(), request->directory()},
                       Answer<SnapshotTaken>(call, [response](const SnapshotTaken& taken) {
                         response->set_step(taken.step);
                         response->set_manifest_path(taken.manifest_path);
                         response->set_bytes(taken.bytes);
                       }));
    return call;
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext*, const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override {
    auto* call = new Call;
    on_drain_();
    const absl::Duration wait = std::min(absl::Milliseconds(request->timeout_ms()), kDrainMax);
    commands_.Drain(absl::Now() + wait, Answer<int32_t>(call, [response](int32_t jobs_left) {
                      response->set_jobs_left(jobs_left);
                    }));
    return call;
  }

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext*, const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    auto* call = new Call;
    commands_.Status(Answer<StatusReport>(call, [this, response](StatusReport report) {
      options_.complete_status(&report);
      ToProto(ToDaemonStatus(report), response);
    }));
    return call;
  }

 private:
  static grpc::ServerUnaryReactor* Refuse(Call* call, const absl::Status& status) {
    call->Finish(ForCaller(status));
    return call;
  }

  // Finishes `call` once; also when the callback is dropped uncalled.
  template <typename T, typename Fill>
  static Done<T> Answer(Call* call, Fill fill) {
    return FinishOnce<T>([call, fill = std::move(fill)](absl::StatusOr<T> result) mutable {
      if (result.ok()) fill(*std::move(result));
      call->Finish(ForCaller(result.status()));
    });
  }

  const GrpcDoorOptions options_;
  DaemonCommands& commands_;
  const std::function<void()> on_drain_;
  std::atomic<uint64_t> next_ticket_{1};
};

class GrpcDoorImpl final : public GrpcDoor {
 public:
  explicit GrpcDoorImpl(GrpcDoorOptions options)
      : options_(std::move(options)), service_(options_, [this] { SetServing(false); }) {}
  ~GrpcDoorImpl() override { Close(absl::ZeroDuration()); }

  absl::Status Listen() {
    grpc::EnableDefaultHealthCheckService(true);
    ::unlink(options_.unix_path.c_str());  // a dead stepper's; the directory is ours alone
    grpc::ServerBuilder builder;
    builder.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
    builder.SetMaxSendMessageSize(static_cast<int>(kMessageBytesMax));
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                               0);  // or two daemons would share a port without a word
    builder.AddListeningPort(unix_endpoint(), grpc::InsecureServerCredentials());
    if (!options_.tcp.empty())
      builder.AddListeningPort(options_.tcp, DoorCredentials(options_.tcp, options_.tls),
                               &tcp_port_);
    builder.RegisterService(&service_);
    for (grpc::Service* service : options_.more_services) builder.RegisterService(service);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (!options_.tcp.empty() && tcp_port_ == 0)) {
      return absl::UnavailableError(absl::StrCat("cannot listen on ", unix_endpoint(),
                                                 options_.tcp.empty() ? "" : " and " + options_.tcp,
                                                 ": an address is taken or not allowed"));
    }
    SetServing(false);
    return absl::OkStatus();
  }

  std::string unix_endpoint() const override { return "unix:" + options_.unix_path; }
  std::string tcp_endpoint() const override {
    if (options_.tcp.empty()) return "";
    return absl::StrCat(options_.tcp.substr(0, options_.tcp.rfind(':')), ":", tcp_port_);
  }
  void SetServing(bool serving) override {
    server_->GetHealthCheckService()->SetServingStatus(serving);
  }
  void Close(absl::Duration grace) override {
    if (server_ == nullptr || closed_) return;
    closed_ = true;
    server_->Shutdown(absl::ToChronoTime(absl::Now() + grace));
    server_->Wait();
  }

 private:
  const GrpcDoorOptions options_;
  DaemonServiceImpl service_;
  std::unique_ptr<grpc::Server> server_;
  int tcp_port_ = 0;
  bool closed_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcDoor>> GrpcDoor::Open(GrpcDoorOptions options) {
  auto door = std::make_unique<GrpcDoorImpl>(std::move(options));
  if (auto status = door->Listen(); !status.ok()) return status;
  return door;
}

}  // namespace muond
