// What muonctl was asked to do.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/ctl/offline_plan.h"
#include "proto/stubs/tls_options.h"

namespace muond {

// The process's exit status: part of the interface.
inline constexpr int kCtlOk = 0;
inline constexpr int kCtlFailed = 1;       // the daemon, or a file, said no: standard error tells
inline constexpr int kCtlUsage = 2;        // the command line
inline constexpr int kCtlUnreachable = 3;  // nobody answers at the endpoint
inline constexpr int kCtlAttention = 4;    // doctor found a problem; drain left jobs

enum class Command : uint8_t {
  kHelp,
  kVersion,
  kStatus,
  kJobs,
  kPlan,
  kDrain,
  kSnapshot,
  kCluster,
  kTop,
  kDoctor
};

struct CommandLine {
  Command command = Command::kHelp;
  std::string help_for;  // kHelp: a command's name, or empty
  std::string endpoint;  // empty: the default
  TlsOptions tls;        // of a TCP endpoint; what is empty comes from the environment
  bool json = false;
  double timeout_seconds = 10;
  double interval_seconds = 2;  // top
  int count = 0;                // top: samples; 0: until interrupted
  std::string offline_list;     // plan: the CSV; empty: a running job's plan
  OfflineOptions offline;
  std::vector<std::string> operands;  // plan [JOB]; snapshot JOB DIRECTORY
};

// `arguments` without argv[0]. INVALID_ARGUMENT says which word was wrong.
absl::StatusOr<CommandLine> ParseCommandLine(const std::vector<std::string>& arguments);

std::string HelpText(const std::string& command);  // of one command, or (empty) of all

}  // namespace muond
