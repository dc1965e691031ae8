// muond-coordinator: serves one Coordinator by gRPC until SIGTERM.
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/endpoint.h"
#include "proto/types/limits.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/coordinator_service.h"
#include "server/coordinator/settings.h"
#include "server/observe/log.h"
#include "server/observe/option_rows.h"

namespace muond {
namespace {

// The process's exit status.
constexpr int kExitOk = 0;
constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;

// A socket file that nobody serves is removed; one that somebody serves, or another kind of file, is left alone.
absl::Status ClearSocket(const std::string& endpoint) {
  const std::string path(SocketPathOf(endpoint));
  std::error_code code;
  if (path.empty() || !std::filesystem::exists(path, code)) return absl::OkStatus();
  if (!std::filesystem::is_socket(path, code)) {
    return absl::AlreadyExistsError(absl::StrFormat("%s exists and is no socket", path));
  }
  StubOptions options;
  options.timeout = absl::Seconds(2);
  const auto stub = CoordinatorStub::Create(endpoint, options);
  if (!stub.ok()) return stub.status();
  if (!absl::IsUnavailable((*stub)->GetCluster().status())) {
    return absl::AlreadyExistsError(absl::StrFormat("%s is served by another process", path));
  }
  std::filesystem::remove(path, code);
  return absl::OkStatus();
}

// Serves until a signal comes; SIGTERM and SIGINT are blocked in every thread and read here.
int Serve(const Settings& settings, const sigset_t& signals) {
  absl::StatusOr<std::unique_ptr<Store>> store = CreateMemoryStore();
  if (!settings.store.empty()) store = OpenSqliteStore(settings.store);
  absl::Status failed = store.status();
  std::unique_ptr<Coordinator> coordinator;
  if (failed.ok()) {
    CoordinatorOptions options;
    options.lease = settings.lease;
    options.orphan_lease = settings.orphan_lease;
    auto created = Coordinator::Create(*std::move(store), options, absl::Now());
    failed = created.status();
    if (created.ok()) coordinator = *std::move(created);
  }
  if (failed.ok()) failed = ClearSocket(settings.listen);
  if (!failed.ok()) {
    Log(Severity::kError, "coordinator.cannot_start", {{"error", failed}});
    return kExitCannotStart;
  }
  const std::unique_ptr<grpc::Service> service = CreateCoordinatorService(coordinator.get());
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  int port = 0;
  const mode_t mask = umask(0077);  // the socket is the user's own
  builder.AddListeningPort(settings.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service.get());
  builder.SetMaxReceiveMessageSize(static_cast<int>(kMessageBytesMax));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  umask(mask);
  if (server == nullptr || port == 0) {
    Log(Severity::kError, "coordinator.cannot_start",
        {{"error", absl::StrFormat("cannot listen at %s", settings.listen)}});
    return kExitCannotStart;
  }
  const std::string endpoint =
      IsUnixEndpoint(settings.listen)
          ? settings.listen
          : absl::StrFormat("%s:%d", settings.listen.substr(0, settings.listen.rfind(':')), port);
  Log(Severity::kInfo, "coordinator.serving",
      {{"endpoint", endpoint},
       {"store", settings.store.empty() ? "memory" : settings.store},
       {"pid", getpid()}});

  const int descriptor = signalfd(-1, &signals, SFD_CLOEXEC);
  pollfd waiting{descriptor, POLLIN, 0};
  while (poll(&waiting, 1, 1000) <= 0) coordinator->Expire(absl::Now());
  signalfd_siginfo info{};
  const bool known = read(descriptor, &info, sizeof(info)) == sizeof(info);
  close(descriptor);
  Log(Severity::kInfo, "coordinator.stopping",
      {{"signal", known ? static_cast<int>(info.ssi_signo) : 0}});
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
  server->Wait();
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
