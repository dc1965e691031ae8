// muond: the keeper, and with --stepper (which only the keeper gives) its child.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "proto/types/version.h"
#include "server/daemon/config.h"
#include "server/daemon/stepper.h"
#include "server/keeper/keeper.h"
#include "server/observe/log.h"
#include "server/observe/option_rows.h"

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
  const std::string version =
      absl::StrFormat("muond %s (protocol %d.%d)", kBuild, kProtocolMajor, kProtocolMinor);
  if (const auto code = AnswerAction(invocation->action, version, invocation->text)) return *code;
  const Config& config = invocation->config;
  ConfigureLog(*ParseSeverity(config.log_level), *ParseLogFormat(config.log_format));
  return config.stepper ? RunStepper(config) : Keep(*invocation);
}

}  // namespace
}  // namespace muond

int main(int argc, char** argv) {
  return muond::Main(std::vector<std::string>(argv + 1, argv + argc));
}
