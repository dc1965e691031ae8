// muond: the keeper, and with --stepper (which only the keeper gives) its child.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/types/version.h"
#include "server/daemon/config.h"
#include "server/daemon/stepper.h"
#include "server/keeper/keeper.h"
#include "server/observe/log.h"

namespace muond {
namespace {

int Keep(const Invocation& invocation) {
  const Config& config = invocation.config;
  KeeperOptions options;
  options.socket_dir = config.socket_dir;
  options.stepper_arguments = invocation.stepper_flags;
  options.stepper_arguments.insert(options.stepper_arguments.begin(), "muond");
  options.remove_directory = config.standalone;
  options.lifeline_fd = config.lifeline_fd;
  options.ready_fd = config.ready_fd;
  options.drain_timeout = config.drain_timeout;
  return RunKeeper(options);
}

int Main(const std::vector<std::string>& arguments) {
  const auto invocation = ReadConfig(arguments, ProcessEnvironment());
  if (!invocation.ok()) {
    std::fprintf(stderr, "muond: %s\n", std::string(invocation.status().message()).c_str());
    return kExitUsage;
  }
  switch (invocation->action) {
    case Action::kHelp:
    case Action::kPrintConfig:
      std::fputs(invocation->text.c_str(), stdout);
      return kExitOk;
    case Action::kVersion:
      std::printf("muond %s (protocol %d.%d)\n", std::string(kBuild).c_str(), kProtocolMajor,
                  kProtocolMinor);
      return kExitOk;
    case Action::kCheckConfig:
      std::puts("the configuration is valid");
      return kExitOk;
    case Action::kRun:
      break;
  }
  const Config& config = invocation->config;
  ConfigureLog(*ParseSeverity(config.log_level), *ParseLogFormat(config.log_format));
  return config.stepper ? RunStepper(config) : Keep(*invocation);
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  return muond::Main(std::vector<std::string>(argv + 1, argv + argc));
}
