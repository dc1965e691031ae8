#include "server/daemon/open_shards.h"

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/keeper/runtime_directory.h"
#include "server/observe/log.h"
#ifdef MUOND_UCX_ROOMS
#include "proto/carrier/ucx/ucx_carrier.h"
#endif

namespace muond {
namespace {

absl::StatusOr<std::unique_ptr<ShardCarrier>> ListenAt(const std::string& address) {
#ifdef MUOND_UCX_ROOMS
  // A successor listens where the dead one did, whose connections the kernel still remembers.
  ::setenv("UCX_TCP_CM_REUSEADDR", "y", /*overwrite=*/0);
  UcxOptions options;
  options.listen = address;
  return CreateUcxCarrier(options);
#else
  return absl::UnimplementedError(
      absl::StrCat("shard_listen: ", address,
                   " needs UCX, and this build has none; off takes jobs of one daemon"));
#endif
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShardCarrier>> OpenShards(const Config& config) {
  if (config.shard_listen == "off") return nullptr;
  const size_t colon = config.shard_listen.rfind(':');
  if (config.shard_listen.substr(colon + 1) != "0") return ListenAt(config.shard_listen);
  const std::string path = absl::StrCat(config.socket_dir, "/", kShardPortName);
  std::string port;
  if (std::ifstream(path) >> port) {
    // Whoever runs a job with this daemon looks for it there.
    auto same = ListenAt(absl::StrCat(config.shard_listen.substr(0, colon + 1), port));
    if (same.ok()) return same;
    Log(Severity::kWarning, "daemon.shards_moved", {{"error", same.status()}});
  }
  auto any = ListenAt(config.shard_listen);
  if (!any.ok()) return any.status();
  const std::string address = (*any)->address();
  std::ofstream(path) << address.substr(address.rfind(':') + 1) << "\n";
  return any;
}

}  // namespace muond
