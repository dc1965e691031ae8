#include "server/daemon/open_plans.h"

#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/carrier/ipc/unix_socket.h"
#include "server/daemon/embedded_coordinator.h"
#include "server/keeper/runtime_directory.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Plans>> OpenPlans(const Config& config, const Backend& backend,
                                                 Metrics* metrics, std::vector<uint64_t> jobs) {
  const std::string& folder = config.state_dir.empty() ? config.socket_dir : config.state_dir;
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST)
    return ErrnoToStatus(errno, absl::StrCat("cannot create the state directory ", folder));
  PlansOptions options;
  options.backend = &backend;
  options.metrics = metrics;
  options.endpoint = absl::StrCat("unix:", config.socket_dir, "/", kGrpcSocketName);
  auto id = KeptId::Open(absl::StrCat(folder, "/", kDaemonIdName));
  if (!id.ok()) return id.status();
  options.id = *std::move(id);
  if (config.coordinator == "embedded") {
    auto link = EmbeddedCoordinator::Open(absl::StrCat(folder, "/", kCatalogName), !jobs.empty());
    if (!link.ok()) return link.status();
    options.link = *std::move(link);
  } else {
    auto link = ConnectCoordinator(config.coordinator, config.tls);
    if (!link.ok()) return link.status();
    options.link = *std::move(link);
  }
  options.jobs = std::move(jobs);
  options.first_start = config.stepper_starts <= 1;
  return Plans::Open(std::move(options));
}

}  // namespace muond
