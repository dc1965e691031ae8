#include "server/daemon/open_plans.h"

#include "server/daemon/local_plans.h"
#include "server/keeper/runtime_directory.h"

namespace muond {
namespace {

// Plans made within this process, for this daemon alone.
class EmbeddedPlans final : public Plans {
 public:
  explicit EmbeddedPlans(const Backend& backend) : source_(daemon(), backend) {}
  PlanSource& source() override { return source_; }
  std::string daemon() const override {
    return "embedded";
  }  // equal in every stepper of this keeper
  absl::Duration heartbeat_age() const override { return absl::ZeroDuration(); }
  std::vector<grpc::Service*> services() override { return {}; }
  void SetDraining(bool) override {}
  void Stop() override {}

 private:
  LocalPlans source_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Plans>> OpenPlans(const Config& config, const Backend& backend,
                                                 Metrics* metrics) {
  if (config.coordinator == "embedded") return std::make_unique<EmbeddedPlans>(backend);
  auto link = ConnectCoordinator(config.coordinator);
  if (!link.ok()) return link.status();
  PlansOptions options;
  options.link = *std::move(link);
  options.backend = &backend;
  options.metrics = metrics;
  options.endpoint = "unix:" + config.socket_dir + "/" + kGrpcSocketName;
  options.id_path = config.socket_dir + "/" + kDaemonIdName;
  return Plans::Open(std::move(options));
}

}  // namespace muond
