#include "server/daemon/stepper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/carrier/ipc/ipc_carrier.h"
#include "proto/types/version.h"
#include "server/daemon/backends.h"
#include "server/daemon/daemon_service.h"
#include "server/daemon/open_plans.h"
#include "server/daemon/open_shards.h"
#include "server/daemon/shell_vault.h"
#include "server/daemon/step_loop.h"
#include "server/keeper/keeper.h"
#include "server/keeper/keeper_client.h"
#include "server/keeper/runtime_directory.h"
#include "server/keeper/stepper_process.h"
#include "server/observe/fail_point.h"
#include "server/observe/http_door.h"
#include "server/observe/log.h"
#include "server/observe/metrics.h"
#include "server/observe/option_rows.h"
#include "server/observe/report_series.h"

namespace muond {
namespace {

constexpr int kMetricsPort = 9478;
constexpr absl::Duration kLoopAnswersWithin = absl::Seconds(2);  // else it is unhealthy
constexpr absl::Duration kCloseGrace = absl::Seconds(1);

// Everything of the process beside the loop, in the order in which it is made; destroyed the other way round.
class Stepper {
 public:
  explicit Stepper(const Config& config) : config_(config), started_(absl::Now()) {}

  absl::Status Start() {
    for (const int fd : {kStepperChannelFd, kStepperFramesFd}) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    auto keeper = KeeperClient::Create(UniqueFd(kStepperChannelFd));
    if (!keeper.ok()) return keeper.status();
    keeper_ = *std::move(keeper);
    vault_ = std::make_unique<ShellVault>(
        keeper_.get(), [this] { Drain(config_.drain_timeout); },
        [this] { Drain(absl::ZeroDuration()); });

    auto chosen = ChooseBackend(config_);
    if (!chosen.ok()) return chosen.status();
    backend_ = *std::move(chosen);

    auto buckets = ParseBuckets(config_.step_seconds_buckets);
    if (!buckets.ok()) return buckets.status();
    auto metrics = Metrics::Create({*buckets, std::string(kBuild), backend_.name});
    if (!metrics.ok()) return metrics.status();
    metrics_ = *std::move(metrics);
    metrics_->StepperStarts(config_.stepper_starts);

    auto plans = OpenPlans(config_, *backend_.backend, metrics_.get(), keeper_->KeptJobs());
    if (!plans.ok()) return plans.status();
    plans_ = *std::move(plans);

    auto carrier = ListenIpc(UniqueFd(kStepperFramesFd));
    if (!carrier.ok()) return carrier.status();
    StepLoopOptions options;
    options.backend = backend_.backend.get();
    options.make_ops = backend_.make_ops;
    options.carrier = *std::move(carrier);
    auto shards = OpenShards(config_);
    if (!shards.ok()) return shards.status();
    options.shards = *std::move(shards);
    options.peer_timeout = config_.peer_timeout;
    options.vault = vault_.get();
    options.plans = &plans_->source();
    options.metrics = metrics_.get();
    options.daemon = plans_->daemon();
    options.job_lease = config_.job_lease;
    options.spin = config_.spin;
    options.workspace_bytes = config_.workspace_bytes;
    options.fail_points = FailPointArmed();
    options.on_last_job_gone = [this] {
      // With a lifeline the spawner decides; it may start a job again.
      if (config_.standalone && config_.lifeline_fd < 0) Drain(absl::ZeroDuration());
    };
    auto loop = StepLoop::Create(std::move(options));
    if (!loop.ok()) return loop.status();
    loop_ = *std::move(loop);
    if (std::exchange(drain_when_made_, false)) Drain(absl::ZeroDuration());
    return OpenDoors();
  }

  int Run() {
    FailPoint("before_serving");
    if (auto status = keeper_->Ready(); !status.ok()) return Fail(status);
    grpc_->SetServing(true);
    Log(Severity::kInfo, "daemon.serving",
        {{"endpoint", grpc_->unix_endpoint()},
         {"tcp", grpc_->tcp_endpoint()},
         {"metrics", http_ == nullptr ? "" : http_->endpoint()},
         {"backend", backend_.name},
         {"devices", backend_.backend->devices().size()},
         {"starts", config_.stepper_starts}});
    const absl::Status status = loop_->Run();
    grpc_->SetServing(false);
    if (!status.ok()) return Fail(status);
    grpc_->Close(kCloseGrace);  // every call has its answer by now, and some are still on their way
    http_.reset();
    plans_->Stop();
    if (auto stop = keeper_->Stop(); !stop.ok()) return Fail(stop);
    Log(Severity::kInfo, "daemon.drained", {{"jobs_left", jobs_left_}});
    return jobs_left_ == 0 ? kExitOk : kExitJobsCut;
  }

 private:
  std::string directory(const char* name) const { return config_.socket_dir + "/" + name; }

  absl::Status OpenDoors() {
    GrpcDoorOptions options;
    options.commands = loop_.get();
    options.unix_path = directory(kGrpcSocketName);
    options.tcp = config_.listen_tcp;
    options.tls = config_.tls;
    options.keeper_socket = directory(kKeeperSocketName);
    options.frame_socket = directory(kFrameSocketName);
    options.join_timeout = config_.join_timeout;
    options.complete_status = [this](StatusReport* report) { Complete(report); };
    options.more_services = plans_->services();
    auto grpc = GrpcDoor::Open(std::move(options));
    if (!grpc.ok()) return grpc.status();
    grpc_ = *std::move(grpc);
    if (config_.metrics_listen == "off") return absl::OkStatus();
    auto http = OpenHttp();
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    metrics_endpoint_ = http_->endpoint();
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<HttpDoor>> OpenHttp() {
    HttpDoorOptions options;
    options.exposition = [this] {
      Feed(AskLoop(), metrics_.get());
      return metrics_->Exposition();
    };
    options.status = [this] { return AskLoop(); };
    if (config_.metrics_listen == "auto") {
      options.port = config_.standalone ? 0 : kMetricsPort;
    } else {
      auto host = HostOf(config_.metrics_listen);
      if (!host.ok()) return host.status();
      const std::string port = config_.metrics_listen.substr(host->size() + 1);
      if (!absl::SimpleAtoi(port, &options.port)) {
        return absl::InvalidArgumentError(
            absl::StrCat("metrics_listen: no port in ", config_.metrics_listen));
      }
      options.pages = IsLoopbackEndpoint(config_.metrics_listen);
      options.host = *std::move(host);
    }
    if (options.port != 0) return HttpDoor::Open(std::move(options));
    return OpenHttpAnywhere(std::move(options));
  }

  // Any free port, and the same for every successor: whoever watches keeps its address.
  absl::StatusOr<std::unique_ptr<HttpDoor>> OpenHttpAnywhere(HttpDoorOptions options) {
    const std::string path = directory(kMetricsPortName);
    if (std::ifstream(path) >> options.port) {
      auto same = HttpDoor::Open(options);
      if (same.ok()) return same;
      Log(Severity::kWarning, "daemon.metrics_moved", {{"error", same.status()}});
    }
    options.port = 0;
    auto http = HttpDoor::Open(std::move(options));
    if (!http.ok()) return http.status();
    const std::string endpoint = (*http)->endpoint();
    std::ofstream(path) << endpoint.substr(endpoint.rfind(':') + 1) << "\n";
    return http;
  }

  std::optional<StatusReport> AskLoop() {
    auto answer = std::make_shared<std::promise<absl::StatusOr<StatusReport>>>();
    auto future = answer->get_future();
    loop_->Status(
        [answer](absl::StatusOr<StatusReport> report) { answer->set_value(std::move(report)); });
    if (future.wait_for(absl::ToChronoMilliseconds(kLoopAnswersWithin)) !=
        std::future_status::ready)
      return {};
    auto report = future.get();
    if (!report.ok()) return {};
    Complete(&*report);
    return *std::move(report);
  }

  // What the loop does not know.
  void Complete(StatusReport* report) {
    report->version = std::string(kBuild);
    report->keeper_pid = ::getppid();
    report->stepper_pid = ::getpid();
    report->stepper_starts = config_.stepper_starts;
    report->endpoint = "unix:" + directory(kGrpcSocketName);
    report->metrics_endpoint = metrics_endpoint_;
    report->daemon = plans_->daemon();
    report->coordinator = plans_->answering();
    if (report->coordinator.empty()) report->coordinator = config_.coordinator;
    report->coordinator_heartbeat_age_seconds = absl::ToDoubleSeconds(plans_->heartbeat_age());
    report->uptime_seconds = absl::ToDoubleSeconds(absl::Now() - started_);
  }

  // On the loop's thread. No new jobs; the loop ends when the running ones have, or after `timeout`.
  void Drain(absl::Duration timeout) {
    if (loop_ == nullptr) {  // it is being made: what a dead stepper left has ended meanwhile
      drain_when_made_ = true;
      return;
    }
    // Being told twice changes nothing, unless the second word is to wait no longer.
    if (std::exchange(draining_, true) && timeout > absl::ZeroDuration()) return;
    plans_->SetDraining(true);
    if (grpc_ != nullptr) grpc_->SetServing(false);
    Log(Severity::kInfo, "daemon.draining", {{"timeout_s", absl::ToDoubleSeconds(timeout)}});
    loop_->Drain(absl::Now() + timeout, [this](absl::StatusOr<int32_t> left) {
      jobs_left_ = left.ok() ? *left : 0;
      loop_->Stop();
    });
  }

  int Fail(const absl::Status& status) {
    Log(Severity::kError, "daemon.failed", {{"error", status}});
    return kExitCannotStart;
  }

  const Config config_;
  const absl::Time started_;
  std::unique_ptr<KeeperClient> keeper_;
  std::unique_ptr<ShellVault> vault_;
  ChosenBackend backend_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Plans> plans_;
  std::unique_ptr<StepLoop> loop_;
  std::string metrics_endpoint_;
  std::unique_ptr<GrpcDoor> grpc_;
  std::unique_ptr<HttpDoor> http_;
  bool draining_ = false, drain_when_made_ = false;
  int32_t jobs_left_ = 0;
};

}  // namespace

int RunStepper(const Config& config) {
  // Terminals and service managers signal the whole group; the keeper decides and tells us.
  ::signal(SIGINT, SIG_IGN);
  ::signal(SIGTERM, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(0077);  // the gRPC socket is ours alone
  MUOND_CHECK_OK(ConfigureFailPoint(config.fail_point, config.stepper_starts));
  Stepper stepper(config);
  if (auto status = stepper.Start(); !status.ok()) {
    Log(Severity::kError, "daemon.cannot_start", {{"error", status}});
    return kExitCannotStart;
  }
  return stepper.Run();
}

}  // namespace muond
