// muond-coordinator: serves one Coordinator by gRPC until SIGTERM.
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "proto/stubs/coordinator_stub.h"
#include "proto/stubs/endpoint.h"
#include "proto/types/limits.h"
#include "server/coordinator/coordinator.h"
#include "server/coordinator/coordinator_service.h"
#include "server/observe/log.h"

namespace muond {
namespace {

// The process's exit status.
constexpr int kExitOk = 0;
constexpr int kExitCannotStart = 1;
constexpr int kExitUsage = 2;

struct Settings {
  std::string listen = "unix:/tmp/muond-coordinator-" + std::to_string(geteuid()) + ".sock";
  std::string store;  // empty: in memory
  int64_t lease_ms = 10'000;
  std::string log_level = "info", log_format = "text";
  bool help = false, version = false, check = false;
};

constexpr const char* kHelp =
    "muond-coordinator: which daemons are there, which jobs run, and who owns what.\n\n"
    "usage: muond-coordinator [OPTIONS]\n\n"
    "  --listen ENDPOINT     unix:/path, or host:port on loopback "
    "(unix:/tmp/muond-coordinator-UID.sock)\n"
    "  --store FILE          SQLite file that outlives this process (none: in memory)\n"
    "  --lease-ms N          a daemon silent for longer is gone (10000)\n"
    "  --log-level LEVEL     debug, info, warning, error (info)\n"
    "  --log-format FORMAT   text, json (text)\n"
    "  --check-config        checks the options and the store's folder, and ends\n"
    "  --version, --help\n\n"
    "Every option but the last three may come from the environment: MUOND_COORDINATOR_LISTEN, "
    ".._STORE, .._LEASE_MS,\n"
    ".._LOG_LEVEL, .._LOG_FORMAT; flags win. SIGTERM and SIGINT end it in order. Exit status: 0 "
    "ended in order,\n"
    "1 could not start, 2 wrong options.\n";

absl::Status Set(const std::string& name, const std::string& value, Settings* settings) {
  if (name == "listen") {
    settings->listen = value;
  } else if (name == "store") {
    settings->store = value;
  } else if (name == "lease-ms") {
    const auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), settings->lease_ms);
    if (error != std::errc() || end != value.data() + value.size() || settings->lease_ms < 100 ||
        settings->lease_ms > 3'600'000) {
      return absl::InvalidArgumentError(
          absl::StrFormat("lease-ms %s: allowed are 100 to 3600000", value));
    }
  } else if (name == "log-level") {
    settings->log_level = value;
    return ParseSeverity(value).status();
  } else if (name == "log-format") {
    settings->log_format = value;
    return ParseLogFormat(value).status();
  } else {
    return absl::InvalidArgumentError(absl::StrFormat("unknown option --%s", name));
  }
  return absl::OkStatus();
}

absl::Status ReadEnvironment(Settings* settings) {
  const std::pair<const char*, const char*> names[] = {
      {"MUOND_COORDINATOR_LISTEN", "listen"},
      {"MUOND_COORDINATOR_STORE", "store"},
      {"MUOND_COORDINATOR_LEASE_MS", "lease-ms"},
      {"MUOND_COORDINATOR_LOG_LEVEL", "log-level"},
      {"MUOND_COORDINATOR_LOG_FORMAT", "log-format"}};
  for (const auto& [variable, option] : names) {
    const char* const value = std::getenv(variable);
    if (value == nullptr || *value == '\0') continue;
    if (absl::Status status = Set(option, value, settings); !status.ok()) {
      return absl::Status(status.code(), absl::StrFormat("%s: %s", variable, status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFlags(const std::vector<std::string>& arguments, Settings* settings) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    if (word == "--help" || word == "-h") {
      settings->help = true;
    } else if (word == "--version") {
      settings->version = true;
    } else if (word == "--check-config") {
      settings->check = true;
    } else if (word.starts_with("--")) {
      const size_t equals = word.find('=');
      const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
      if (equals == std::string::npos && i + 1 == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrFormat("--%s needs a value", name));
      }
      const std::string value =
          equals == std::string::npos ? arguments[++i] : word.substr(equals + 1);
      if (absl::Status status = Set(name, value, settings); !status.ok()) return status;
    } else {
      return absl::InvalidArgumentError(absl::StrFormat("'%s' is no option", word));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSettings(Settings* settings) {
  absl::StatusOr<std::string> endpoint = CanonicalEndpoint(settings->listen);
  if (!endpoint.ok()) return endpoint.status();
  settings->listen = *std::move(endpoint);
  if (!IsUnixEndpoint(settings->listen)) {
    const std::string host = settings->listen.substr(0, settings->listen.rfind(':'));
    if (host != "127.0.0.1" && host != "[::1]" && host != "localhost") {
      return absl::InvalidArgumentError(absl::StrFormat(
          "listen %s: TCP is plain text, so only loopback is served", settings->listen));
    }
  }
  if (!settings->store.empty()) {
    const auto folder = std::filesystem::absolute(settings->store).parent_path();
    if (access(folder.c_str(), W_OK | X_OK) != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("store %s: its folder is missing or cannot be written", settings->store));
    }
  }
  return absl::OkStatus();
}

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
    options.lease = absl::Milliseconds(settings.lease_ms);
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
  Settings settings;
  absl::Status status = ReadEnvironment(&settings);
  if (status.ok()) status = ReadFlags(arguments, &settings);
  if (settings.help) {
    std::fputs(kHelp, stdout);
    return kExitOk;
  }
  if (settings.version) {
    std::printf("muond-coordinator %s (protocol %d.%d)\n", std::string(kBuild).c_str(),
                kProtocolMajor, kProtocolMinor);
    return kExitOk;
  }
  if (status.ok()) status = CheckSettings(&settings);
  if (!status.ok()) {
    std::fprintf(stderr, "muond-coordinator: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  if (settings.check) {
    std::puts("the configuration is valid");
    return kExitOk;
  }
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
