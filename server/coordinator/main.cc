// muond-coordinator: serves one Coordinator by gRPC until SIGTERM.
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/stubs/credentials.h"
#include "proto/stubs/endpoint.h"
#include "proto/stubs/etcd_stub.h"
#include "proto/types/limits.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/coordinator_metrics.h"
#include "server/coordinator/election.h"
#include "server/coordinator/seat_service.h"
#include "server/coordinator/settings.h"
#include "server/observe/http_door.h"
#include "server/observe/log.h"
#include "server/observe/option_rows.h"

namespace muond {
namespace {

// The process's exit status.
constexpr int kExitOk = 0;
constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;

// Of the first question to etcd: a wrong address is seen at the start.
constexpr absl::Duration kEtcdStartWithin = absl::Seconds(5);

// A socket file that nobody serves is removed; one that somebody serves, or another kind of file, is left alone.
absl::Status ClearSocket(const std::string& endpoint) {
  const std::string path(SocketPathOf(endpoint));
  std::error_code code;
  if (path.empty() || !std::filesystem::exists(path, code)) return absl::OkStatus();
  if (!std::filesystem::is_socket(path, code)) {
    return absl::AlreadyExistsError(absl::StrFormat("%s exists and is no socket", path));
  }
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int line = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool served =
      connect(line, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  close(line);
  if (served)
    return absl::AlreadyExistsError(absl::StrFormat("%s is served by another process", path));
  std::filesystem::remove(path, code);
  return absl::OkStatus();
}

int CannotStart(const absl::Status& status) {
  Log(Severity::kError, "coordinator.cannot_start", {{"error", status}});
  return kExitCannotStart;
}

absl::StatusOr<std::unique_ptr<Coordinator>> TakeUp(const Settings& settings,
                                                    CoordinatorMetrics* metrics,
                                                    std::unique_ptr<Store> store) {
  CoordinatorOptions options;
  options.planned = [metrics](absl::Duration took) { metrics->Planned(took); };
  options.lease = settings.lease;
  options.orphan_lease = settings.orphan_lease;
  return Coordinator::Create(Measured(std::move(store), metrics), options, absl::Now());
}

// A coordinator with a store of its own.
absl::StatusOr<std::unique_ptr<Coordinator>> Alone(const Settings& settings,
                                                   CoordinatorMetrics* metrics) {
  if (settings.store.empty()) return TakeUp(settings, metrics, CreateMemoryStore());
  auto store = OpenSqliteStore(settings.store);
  if (!store.ok()) return store.status();
  return TakeUp(settings, metrics, *std::move(store));
}

// The store of several, which must answer once.
absl::StatusOr<std::shared_ptr<EtcdStub>> ReachEtcd(const Settings& settings) {
  StubOptions calls;
  calls.tls = settings.etcd_tls;
  calls.tls.plain_tcp = settings.tls.plain_tcp;
  calls.timeout = kEtcdStartWithin;
  const auto first = EtcdStub::Create(settings.etcd, calls);
  if (!first.ok()) return first.status();
  if (auto answer = (*first)->Get(settings.etcd_prefix + "leader"); !answer.ok())
    return answer.status();
  calls.timeout = settings.leader_ttl / 4;
  auto etcd = EtcdStub::Create(settings.etcd, calls);
  if (!etcd.ok()) return etcd.status();
  return std::shared_ptr<EtcdStub>(*std::move(etcd));
}

struct Door {
  std::unique_ptr<grpc::Server> server;
  std::string endpoint;  // with the port that was taken
};

absl::StatusOr<Door> Listen(const Settings& settings, grpc::Service* service) {
  if (auto status = ClearSocket(settings.listen); !status.ok()) return status;
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  const mode_t mask = umask(0077);  // the socket is the user's own
  builder.AddListeningPort(settings.listen, DoorCredentials(settings.listen, settings.tls), &port);
  builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Callers of several coordinators ping each second while they wait (proto/stubs/fleet.h).
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  Door door{builder.BuildAndStart(), settings.listen};
  umask(mask);
  if (door.server == nullptr || port == 0)
    return absl::UnavailableError(absl::StrFormat("cannot listen at %s", settings.listen));
  if (!IsUnixEndpoint(settings.listen)) {
    door.endpoint =
        absl::StrFormat("%s:%d", settings.listen.substr(0, settings.listen.rfind(':')), port);
  }
  return door;
}

// Until SIGTERM or SIGINT comes; they are blocked in every thread and read here.
int AwaitSignal(const sigset_t& signals, Seat& seat) {
  const int descriptor = signalfd(-1, &signals, SFD_CLOEXEC);
  pollfd waiting{descriptor, POLLIN, 0};
  while (poll(&waiting, 1, 1000) <= 0) {
    if (const auto coordinator = seat.Sit(); coordinator.ok()) (*coordinator)->Expire(absl::Now());
  }
  signalfd_siginfo info{};
  const bool known = read(descriptor, &info, sizeof(info)) == sizeof(info);
  close(descriptor);
  return known ? static_cast<int>(info.ssi_signo) : 0;
}

absl::StatusOr<std::unique_ptr<HttpDoor>> OpenMetrics(const Settings& settings, LateSeat* seat,
                                                      CoordinatorMetrics* metrics) {
  if (settings.metrics_listen == "off") return std::unique_ptr<HttpDoor>();
  HttpDoorOptions options;
  auto host = HostOf(settings.metrics_listen);
  if (!host.ok()) return host.status();
  options.port = std::atoi(settings.metrics_listen.c_str() + host->size() + 1);
  options.host = *std::move(host);
  options.pages = false;
  options.status = [] { return std::optional<StatusReport>(std::in_place); };
  options.exposition = [&settings, seat, metrics] {
    if (!settings.tls.cert.empty()) {
      if (const auto end = CertificateEnd(settings.tls.cert); end.ok()) metrics->Certificate(*end);
    }
    if (const auto leads = seat->get()->Sit(); leads.ok()) {
      const ClusterStatus cluster = (*leads)->GetCluster(absl::Now());
      return metrics->Exposition(&cluster);
    }
    return metrics->Exposition(nullptr);
  };
  return HttpDoor::Open(std::move(options));
}

int Serve(const Settings& settings, const sigset_t& signals) {
  CoordinatorMetrics metrics(std::string(kBuild), !settings.etcd.empty()    ? "etcd"
                                                  : !settings.store.empty() ? "sqlite"
                                                                            : "memory");
  std::shared_ptr<Coordinator> alone;
  std::shared_ptr<EtcdStub> etcd;
  if (settings.etcd.empty()) {
    auto opened = Alone(settings, &metrics);
    if (!opened.ok()) return CannotStart(opened.status());
    alone = *std::move(opened);
  } else {
    auto reached = ReachEtcd(settings);
    if (!reached.ok()) return CannotStart(reached.status());
    etcd = *std::move(reached);
  }
  LateSeat late;
  const std::unique_ptr<grpc::Service> service = CreateSeatService(
      &late,
      [&metrics](const char* call, const absl::Status& status) { metrics.Called(call, status); });
  const auto door = Listen(settings, service.get());
  if (!door.ok()) return CannotStart(door.status());
  const std::string known_as = settings.advertise.empty() ? door->endpoint : settings.advertise;
  std::unique_ptr<Seat> seat;
  std::unique_ptr<Election> election;
  if (etcd == nullptr) {
    seat = std::make_unique<OwnSeat>(std::move(alone), known_as);
  } else {
    ElectionOptions options{etcd, settings.etcd_prefix, known_as, settings.leader_ttl, nullptr};
    options.take_up = [&settings, &metrics](std::unique_ptr<Store> store) {
      return TakeUp(settings, &metrics, std::move(store));
    };
    election = Election::Start(std::move(options));
  }
  late.Take(election == nullptr ? seat.get() : election.get());
  const auto http = OpenMetrics(settings, &late, &metrics);
  if (!http.ok()) return CannotStart(http.status());
  Log(Severity::kInfo, "coordinator.serving",
      {{"endpoint", door->endpoint},
       {"metrics", *http == nullptr ? "" : (*http)->endpoint()},
       {"tls", !IsUnixEndpoint(settings.listen) && !settings.tls.cert.empty()},
       {"store", etcd != nullptr          ? "etcd " + settings.etcd
                 : settings.store.empty() ? "memory"
                                          : settings.store},
       {"pid", getpid()}});

  const int signal = AwaitSignal(signals, *late.get());
  Log(Severity::kInfo, "coordinator.stopping", {{"signal", signal}});
  if (election != nullptr) election->Stop();
  door->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  door->server->Wait();
  if (IsUnixEndpoint(settings.listen)) unlink(std::string(SocketPathOf(settings.listen)).c_str());
  return kExitOk;
}

int Main(const std::vector<std::string>& arguments) {
  const absl::StatusOr<SettingsRead> read = ReadSettings(arguments, ProcessEnvironment());
  if (!read.ok()) {
    std::fprintf(stderr, "muond-coordinator: %s\n", std::string(read.status().message()).c_str());
    return kExitUsage;
  }
  const std::string version = absl::StrFormat("muond-coordinator %s (protocol %d.%d)", kBuild,
                                              kProtocolMajor, kProtocolMinor);
  if (const auto code = AnswerAction(read->action, version, read->text)) return *code;
  const Settings& settings = read->settings;
  ConfigureLog(*ParseSeverity(settings.log_level), *ParseLogFormat(settings.log_format));
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread starts
  return Serve(settings, signals);
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  return muond::Main(std::vector<std::string>(argv + 1, argv + argc));
}
