#include "server/daemon/open_plans.h"

#include "server/daemon/embedded_coordinator.h"
#include "server/keeper/runtime_directory.h"

namespace muond {

absl::StatusOr<std::unique_ptr<Plans>> OpenPlans(const Config& config, const Backend& backend,
                                                 Metrics* metrics) {
  PlansOptions options;
  options.backend = &backend;
  options.metrics = metrics;
  options.endpoint = "unix:" + config.socket_dir + "/" + kGrpcSocketName;
  if (config.coordinator == "embedded") {
    options.link = std::make_unique<EmbeddedCoordinator>();
  } else {
    auto link = ConnectCoordinator(config.coordinator);
    if (!link.ok()) return link.status();
    options.link = *std::move(link);
    options.id_path = config.socket_dir + "/" + kDaemonIdName;
  }
  return Plans::Open(std::move(options));
}

}  // namespace muond
